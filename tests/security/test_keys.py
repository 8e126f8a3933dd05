"""Keys: shown once, kept as a hash, good until they are revoked or over."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from luthier.core.errors import NotFound, SpecError, Unauthenticated
from luthier.security import keys
from luthier.security.actor import actor_of, note_use
from luthier.security.roles import Role
from luthier.store.audit import LOCAL, Deputy
from luthier.store.tables.operation import Audit
from luthier.store.tables.tenants import Key
from security.town import Town


def refused(town: Town, secret: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as raised, town.database.read() as session:
        actor_of(session, secret)
    return raised.value


def test_a_key_is_256_bits_of_which_only_the_hash_is_kept(town: Town) -> None:
    made = [town.key(town.ours, Role.member) for _ in range(3)]
    assert len({one.secret for one in made}) == 3
    for one in made:
        assert one.secret.startswith("lk-") and len(one.secret) == 3 + 43
        assert one.key.digest == hashlib.sha256(one.secret.encode()).hexdigest()
        assert one.key.prefix == one.secret[:9]
        assert one.secret not in repr(one) and one.secret[9:] not in str(vars(one.key))
    with town.database.read() as session:
        assert made[0].secret[9:] not in str([row.details for row in session.scalars(select(Audit))])


def test_a_good_key_tells_who_asks(town: Town) -> None:
    secret = town.key(town.ours, Role.member, scopes=["file.*"], limits={"concurrent": 3}).secret
    with town.database.read() as session:
        actor = actor_of(session, secret)
    assert (actor.organisation_id, actor.project_id, actor.organisation) == (town.ours.organisation_id, town.ours.project_id, "ours")
    assert (actor.role, actor.organisation_role, actor.scopes) == (Role.member, None, ("file.*",))
    assert actor.limits.concurrent == 3 and actor.limits.jobs == keys.Limits().jobs
    assert actor.name.startswith("key_") and actor.user_id.startswith("user-")


@pytest.mark.parametrize("secret", ["lk-wrong", "x" * 10_000, "lk-\u0000", "lk-\ud800", "' OR '1'='1"])
def test_a_wrong_key_opens_nothing(town: Town, secret: str) -> None:
    error = refused(town, secret)
    assert error.code == "wrong_key" and error.what == "This key opens nothing." and secret not in str(error)


def test_no_key_is_told_how_to_send_one(town: Town) -> None:
    error = refused(town, "")
    assert error.code == "no_key" and "Authorization: Bearer lk-..." in error.remedy


def test_nearly_right_is_wrong(town: Town) -> None:
    secret = town.key(town.ours, Role.owner).secret
    for wrong in (secret[:-1], secret + "x", secret.swapcase(), secret + " "):
        assert refused(town, wrong).code == "wrong_key"


def test_a_revoked_key_opens_nothing_any_more(town: Town) -> None:
    made = town.key(town.ours, Role.owner)
    with town.database.write() as session:
        assert keys.revoke(session, town.ours, made.key.id).revoked_at == pytest.approx(time.time(), abs=5)
    with town.database.write() as session:
        keys.revoke(session, town.ours, made.key.prefix)
    error = refused(town, made.secret)
    assert error.code == "revoked_key" and f"The key {made.key.prefix}... was revoked" in str(error)
    with town.database.read() as session:
        assert len(session.scalars(select(Audit).where(Audit.action == "key.revoke")).all()) == 1


def test_a_key_of_another_project_cannot_be_revoked(town: Town) -> None:
    made = town.key(town.theirs, Role.owner)
    for who, name in ((town.ours, made.key.id), (LOCAL, "key_nothing"), (LOCAL, "lk-")):
        with pytest.raises(NotFound, match="There is no key") as raised, town.database.write() as session:
            keys.revoke(session, who, name)
        assert raised.value.code == "unknown_key_id"


def test_an_expired_key_opens_nothing(town: Town) -> None:
    made = town.key(town.ours, Role.owner, expires_after=3600)
    with town.database.read() as session:
        actor_of(session, made.secret)
    with town.database.write() as session:
        session.execute(update(Key).values(expires_at=time.time() - 1))
    assert refused(town, made.secret).code == "expired_key"


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ({"scopes": ["fil.read"]}, "bad_scope", r"The scope 'fil.read' covers no action.*Did you mean file.read\?"),
        ({"limits": {"request": 1}}, "bad_limit", "There is no limit 'request'"),
        ({"limits": {"concurrent": -1}}, "bad_limit", "concurrent is a whole number from 0 up, not -1"),
        ({"limits": {"concurrent": True}}, "bad_limit", "not True"),
        ({"expires_after": 0}, "bad_value", "A key cannot expire before it is made"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(town: Town, how: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        town.key(town.ours, Role.member, **how)
    assert raised.value.code == code


def test_keys_are_listed_by_place(town: Town) -> None:
    made = [town.key(where, Role.member).key.id for where in (town.ours, town.theirs, town.ours)]
    with town.database.read() as session:
        assert [key.id for key in keys.listed(session).rows] == made
        assert [key.id for key in keys.listed(session, Key.project_id == town.ours.project_id).rows] == [made[0], made[2]]


def test_when_a_key_was_used_is_noted_once_a_minute(town: Town) -> None:
    secret = town.key(town.ours, Role.member).secret

    def used() -> float | None:
        with town.database.read() as session:
            actor = actor_of(session, secret)
        note_use(town.database, actor)
        with town.database.read() as session:
            return session.scalar(select(Key.used_at))

    first = used()
    assert first == pytest.approx(time.time(), abs=5) and used() == first
    with town.database.write() as session:
        session.execute(update(Key).values(used_at=1.0))
    assert used() == pytest.approx(time.time(), abs=5)


def test_deputies_are_no_keys() -> None:
    assert Deputy("local") == LOCAL
