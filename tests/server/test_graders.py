"""Graders tried over the wire with the real client: what they give, who may ask, what is refused, and that no size of request hangs."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import openai
import pytest

from luthier.security import keys, tenants
from luthier.security.roles import Role
from server.live import Live
from server.rows import actor
from server.test_jobs import EXACT, NEAR

BOTH: dict[str, Any] = {"type": "multi", "name": "both", "graders": {"exact": EXACT, "near": NEAR}}
BOTH["calculate_output"] = "0.8 * exact + 0.2 * near"
RUN = "/v1/fine_tuning/alpha/graders/run"


def test_what_would_do_comes_back_as_it_was_sent(client: openai.OpenAI) -> None:
    graders = client.fine_tuning.alpha.graders
    for told in (EXACT, NEAR, BOTH):
        sent: Any = told
        assert graders.validate(grader=sent).model_dump(warnings=False, exclude_unset=True)["grader"] == told


@pytest.mark.parametrize(
    ("told", "said", "reward", "below"),
    [
        (EXACT, "abcd", 1.0, {}),
        (EXACT, "abxd", 0.0, {}),
        (NEAR, "abxd", 0.75, {}),
        (BOTH, "abxd", 0.15, {"exact": 0.0, "near": 0.75}),
        (BOTH | {"graders": [EXACT, NEAR]}, "abcd", 1.0, {"exact": 1.0, "near": 1.0}),
        ({"type": "regex", "pattern": "^a.*d$"}, "abxd", 1.0, {}),
    ],
    ids=["same", "other", "near", "several", "a list of several", "one of ours"],
)
def test_an_answer_is_graded(client: openai.OpenAI, told: Any, said: str, reward: float, below: dict[str, float]) -> None:
    found = client.fine_tuning.alpha.graders.run(grader=told, item={"answer": "abcd"}, model_sample=said)
    assert found.reward == pytest.approx(reward)
    assert found.sub_rewards == found.metadata.scores == below
    assert (found.metadata.name, found.metadata.type) == (told.get("name", told["type"]), told["type"])
    assert not any(found.metadata.errors.model_dump().values())
    assert 0 < found.metadata.execution_time < 5
    assert found.metadata.token_usage is None and found.api_model_grader_token_usage_per_model == {}


def test_an_item_may_be_absent_and_a_field_of_it_too(client: openai.OpenAI) -> None:
    sent: Any = EXACT
    assert client.fine_tuning.alpha.graders.run(grader=sent, model_sample="").reward == 1.0
    assert client.fine_tuning.alpha.graders.run(grader=sent, model_sample="x", item={"other": 1}).reward == 0.0


@pytest.mark.parametrize(
    ("told", "where", "said"),
    [
        ({"type": "python", "source": "import os"}, ".type", "would run code of a client"),
        ({"type": "score_model", "model": "judge", "input": []}, ".type", "would ask another model"),
        ({"type": "label_model"}, ".type", "would ask another model"),
        ({"type": "multi", "graders": {"a": EXACT, "b": {"type": "label_model"}}}, ".graders.b.type", "would ask another model"),
        (BOTH | {"calculate_output": "near + far"}, "", "there is no grader 'far'"),
        ({**NEAR, "evaluation_metric": "cosine"}, "", "cosine"),
        ({"name": "nobody"}, "", "grader has no type"),
        ({"type": ["python"]}, "", "no grader called"),
        ({"type": "label", "labels": ["x" * 30_000]}, "", "at most 20,000 characters"),
    ],
)
def test_what_would_not_do_is_refused_by_both(client: openai.OpenAI, told: Any, where: str, said: str) -> None:
    graders = client.fine_tuning.alpha.graders
    for call in (lambda: graders.validate(grader=told), lambda: graders.run(grader=told, model_sample="x")):
        with pytest.raises(openai.BadRequestError, match=said) as refused:
            call()
        assert refused.value.param == f"grader{where}"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model_sample": "x" * 100_001}, "model_sample"),
        ({"model_sample": None}, "model_sample"),
        ({"item": {"answer": "x" * 100_000}}, "item"),
        ({"item": [1]}, "item"),
        ({"grader": "exact"}, "grader"),
    ],
)
def test_requests_that_cannot_be(http: httpx2.Client, change: dict[str, Any], param: str) -> None:
    answer = http.post(RUN, json={"grader": EXACT, "model_sample": "x"} | change)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_what_is_not_known_is_told_back(http: httpx2.Client) -> None:
    answer = http.post(RUN, json={"grader": EXACT, "model_sample": "x", "speed": "high"})
    assert answer.json()["luthier"]["ignored"] == ["speed"]


def test_a_long_field_named_a_thousand_times_is_no_standstill(client: openai.OpenAI) -> None:
    told: Any = {**NEAR, "input": "{{item.a}}" * 900, "reference": "{{item.a}}" * 900 + "x"}
    start = time.perf_counter()
    found = client.fine_tuning.alpha.graders.run(grader=told, item={"a": "ab" * 45_000}, model_sample="")
    assert found.reward == 1.0, "what is beyond the longest text is not looked at"
    assert time.perf_counter() - start < 5


def test_a_viewer_may_ask_within_the_scopes_of_the_key(live: Live) -> None:
    owner = actor(live)
    with live.service.database.write() as session:
        user = tenants.create_user(session, owner, "onlooker")
        tenants.set_role(session, owner, user.id, owner.organisation_id, Role.viewer, project_id=owner.project_id)
        who = {"user_id": user.id, "project_id": owner.project_id}
        whole = keys.create(session, owner, **who, name="whole").secret
        narrow = keys.create(session, owner, **who, name="narrow", scopes=["file.read"]).secret
    sent: Any = EXACT
    graders = live.client(whole, max_retries=0).fine_tuning.alpha.graders
    answer = graders.with_raw_response.run(grader=sent, model_sample="x", item={"answer": "x"})
    assert answer.parse().reward == 1.0 and int(answer.headers["x-ratelimit-remaining-requests"]) > 0
    assert graders.validate(grader=sent).grader
    with pytest.raises(openai.PermissionDeniedError):
        live.client(narrow, max_retries=0).fine_tuning.alpha.graders.run(grader=sent, model_sample="x")
