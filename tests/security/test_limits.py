"""Rates by a clock turned by hand; quotas counted where the rows are."""

from __future__ import annotations

import threading

import pytest

from luthier.core.errors import TooMuch
from luthier.security import limits, quotas
from luthier.security.limits import Limiter, Limits
from luthier.store import ids
from luthier.store.tables.files import File, Upload, UploadPart
from luthier.store.tables.jobs import Job
from security.town import Town


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def refusal(limiter: Limiter, limits: Limits, *, key: str = "key_a", tokens: int = 0) -> TooMuch:
    with pytest.raises(TooMuch) as raised:
        limiter.admit(key, limits, tokens=tokens)
    return raised.value


def test_a_minute_s_requests_then_one_as_each_comes_back(limiter: Limiter, clock: Clock) -> None:
    few = Limits(requests_per_minute=3)
    left = [limiter.admit("key_a", few).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    error = refusal(limiter, few)
    assert "The key's limit is 3 requests a minute. Try again in 20 s." in str(error)
    assert (error.code, error.retry_after, error.headers["retry-after"], error.headers["retry-after-ms"]) == (
        "rate_limit",
        20,
        "20",
        "20000",
    )
    clock.now += 19.9
    refusal(limiter, few)
    clock.now += 0.2
    limiter.admit("key_a", few)
    refusal(limiter, few)
    clock.now += 3600
    assert [limiter.admit("key_a", few).headers["x-ratelimit-remaining-requests"] for _ in range(3)] == ["2", "1", "0"]


def test_keys_do_not_pay_for_each_other(limiter: Limiter) -> None:
    few = Limits(requests_per_minute=1)
    limiter.admit("key_a", few)
    refusal(limiter, few)
    limiter.admit("key_b", few)


def test_tokens_are_settled_afterwards(limiter: Limiter, clock: Clock) -> None:
    few = Limits(tokens_per_minute=600)
    with limiter.admit("key_a", few, tokens=100) as grant:
        assert grant.headers["x-ratelimit-remaining-tokens"] == "500"
        grant.spent(900)
        grant.spent(800)
    error = refusal(limiter, few, tokens=100)
    assert error.retry_after == pytest.approx(30.0) and error.headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now += 31
    assert limiter.admit("key_a", few, tokens=100).headers["x-ratelimit-limit-tokens"] == "600"


def test_what_can_never_fit_is_not_told_to_wait(limiter: Limiter) -> None:
    error = refusal(limiter, Limits(tokens_per_minute=10), tokens=11)
    assert error.retry_after is None and "This request alone is more than 10 tokens a minute" in str(error)
    assert "retry-after" not in error.headers
    assert refusal(limiter, Limits(requests_per_minute=0), key="key_b").retry_after is None


def test_requests_at_once(limiter: Limiter) -> None:
    few = Limits(concurrent=2)
    first, second = (limiter.admit("key_a", few) for _ in range(2))
    error = refusal(limiter, few)
    assert "2 requests at once" in str(error) and error.retry_after == 1.0
    first.close()
    first.close()
    third = limiter.admit("key_a", few)
    refusal(limiter, few)
    for grant in (second, third):
        grant.close()
    with pytest.raises(KeyError), limiter.admit("key_a", few):
        raise KeyError
    for _ in range(2):
        limiter.admit("key_a", few)


def test_a_refused_request_costs_nothing(limiter: Limiter, clock: Clock) -> None:
    few = Limits(requests_per_minute=60, tokens_per_minute=60)
    limiter.admit("key_a", few, tokens=60)
    for _ in range(10):
        refusal(limiter, few, tokens=1)
    clock.now += 1
    assert limiter.admit("key_a", few, tokens=1).headers["x-ratelimit-remaining-requests"] == "59"


def test_changed_limits_count_from_the_next_request(limiter: Limiter) -> None:
    limiter.admit("key_a", Limits(requests_per_minute=1))
    limiter.admit("key_a", Limits(requests_per_minute=2))
    refusal(limiter, Limits(requests_per_minute=2))
    refusal(limiter, Limits(requests_per_minute=1))


@pytest.mark.parametrize(
    ("taken", "words"), [(0, "0ms"), (1, "60ms"), (17, "1.1s"), (500, "30s"), (1000, "1m0s")], ids=lambda value: str(value)
)
def test_times_are_written_as_clients_read_them(limiter: Limiter, taken: int, words: str) -> None:
    grant = limiter.admit("key_a", Limits(tokens_per_minute=1000), tokens=taken)
    assert grant.headers["x-ratelimit-reset-tokens"] == words


def test_forgotten_keys_have_full_buckets(limiter: Limiter, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 2)
    few = Limits(requests_per_minute=2)
    limiter.admit("key_idle", few).close()
    limiter.admit("key_open", few)
    clock.now += 120
    limiter.admit("key_new", few)
    assert set(limiter._accounts) == {"key_open", "key_new"}


def test_threads_get_as_many_as_there_are(limiter: Limiter) -> None:
    few, granted = Limits(requests_per_minute=50, concurrent=1000), []

    def ask() -> None:
        for _ in range(20):
            try:
                granted.append(limiter.admit("key_a", few))
            except TooMuch:
                continue

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 50


def test_bytes_of_files_and_parts_count(town: Town) -> None:
    here, there = str(town.ours.project_id), str(town.beside.project_id)
    with town.database.write() as session:
        common = {"filename": "x", "purpose": "batch", "digest": "0" * 64}
        session.add_all(
            [File(id="file-1", project_id=here, bytes=300, **common), File(id="file-2", project_id=there, bytes=5000, **common)]
        )
        session.add(Upload(id="upload_1", project_id=here, filename="x", purpose="batch", mime_type="x", bytes=900, expires_at=0.0))
        session.flush()
        session.add(UploadPart(id="part_1", upload_id="upload_1", bytes=200, digest="0" * 64))
    with town.database.write() as session:
        assert quotas.storage(session, here) == 500
        quotas.room_for_bytes(session, here, 500, most=1000)
        with pytest.raises(TooMuch, match="keeps 500 bytes and may keep 1,000; 501 more do not fit") as raised:
            quotas.room_for_bytes(session, here, 501, most=1000)
    assert raised.value.code == "quota" and raised.value.retry_after is None


def test_jobs_that_are_not_over_count(town: Town) -> None:
    with town.database.write() as session:
        for state in (*quotas.OPEN_STATES, "succeeded", "failed", "cancelled"):
            session.add(
                Job(
                    id=ids.new("ftjob-"),
                    project_id=town.ours.project_id,
                    state=state,
                    model="m",
                    training_file="f",
                    seed=1,
                    method={},
                    spec={},
                    request_digest="",
                )
            )
    with town.database.write() as session:
        quotas.room_for_job(session, str(town.ours.project_id), most=5)
        quotas.room_for_job(session, str(town.beside.project_id), most=1)
        with pytest.raises(TooMuch, match="4 jobs of the project wait or run") as raised:
            quotas.room_for_job(session, str(town.ours.project_id), most=4)
    assert raised.value.code == "quota"
