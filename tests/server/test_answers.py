"""Chats, completions, embeddings and models through the real client, answered by the bundled base."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import httpx2
import openai
import pytest

from server.live import JUDGE, Live

MODEL = "luthier-mini"
ASKED: Any = {"model": MODEL, "messages": [{"role": "user", "content": "What is a cow?"}], "temperature": 0, "max_completion_tokens": 8}


ANIMAL = {"type": "object", "properties": {"animal": {"type": "string"}}}
TOOL: Any = {"type": "function", "function": {"name": "legs_of", "parameters": ANIMAL}}
NOT_ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "x"}}]}}


@pytest.fixture(scope="module")
def plain(client: openai.OpenAI) -> Any:
    """The greedy answer that others are compared with."""
    return client.chat.completions.create(**ASKED)


def test_a_chat(plain: Any) -> None:
    assert plain.object == "chat.completion" and plain.model == MODEL and plain.id.startswith("chatcmpl-")
    (choice,) = plain.choices
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    assert choice.message.refusal is None and choice.logprobs is None
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    assert 0 < plain.usage.completion_tokens <= 8 and plain.system_fingerprint


def test_a_stream_says_the_same(client: openai.OpenAI, plain: Any) -> None:
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.total_tokens == plain.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_frames_are_those_of_the_wire(http: httpx2.Client) -> None:
    with http.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True, "verbosity": "low"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = answer.read().decode().split("\n\n")
    assert all(frame.startswith("data: {") for frame in frames[:-2]) and frames[-2:] == ["data: [DONE]", ""]
    contents = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert contents[0]["luthier"] == {"ignored": ["verbosity"]}
    for content in contents if JUDGE else []:
        JUDGE.check_chunk(content)


def test_several_answers_with_logprobs(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(**ASKED | {"temperature": 1.0}, n=3, seed=7, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    for choice in said.choices:
        assert choice.logprobs and choice.logprobs.content
        for token in choice.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 2 and bytes(token.bytes or []).decode(errors="replace") == token.token
    again = client.chat.completions.create(**ASKED | {"temperature": 1.0}, n=3, seed=7)
    assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in said.choices]


def test_a_schema_is_followed(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}}
    said = client.chat.completions.create(**ASKED | {"max_completion_tokens": 40}, response_format=form)
    assert isinstance(json.loads(said.choices[0].message.content or "")["legs"], int)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-none"}, "model"),
        ({"model": "../../etc"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": NOT_ALLOWED}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"metadata": {"k": "v" * 600}}, "metadata.k"),
    ],
)
def test_what_cannot_be_answered(http: httpx2.Client, change: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        answer = http.post("/v1/chat/completions", json=ASKED | {"stream": stream} | change)
        assert answer.status_code == (404 if param == "model" else 400)
        assert str(answer.json()["error"]["param"]).startswith(param)


def test_codes_that_programs_look_for(http: httpx2.Client) -> None:
    ask = {"model": "luthier-mini", "messages": [{"role": "user", "content": "word " * 5000}]}
    assert http.post("/v1/chat/completions", json=ask).json()["error"]["code"] == "context_length_exceeded"
    assert http.post("/v1/chat/completions", json={**ask, "model": "gpt-4o"}).json()["error"]["code"] == "model_not_found"


def test_stored_completions(client: openai.OpenAI) -> None:
    kept = client.chat.completions.create(**ASKED, store=True, metadata={"shop": "a b"})
    other = client.chat.completions.create(**ASKED, store=True)
    stored = client.chat.completions
    assert stored.retrieve(kept.id).choices[0].message.content == kept.choices[0].message.content
    assert [one.id for one in stored.list(metadata={"shop": "a b"})] == [kept.id]
    assert {kept.id, other.id} <= {one.id for one in stored.list(model=MODEL, limit=1)}
    assert stored.update(kept.id, metadata={"shop": "c"}).metadata == {"shop": "c"}
    (message,) = list(stored.messages.list(kept.id))
    assert (message.id, message.content) == (f"{kept.id}-0", "What is a cow?")
    for one in (kept, other):
        assert stored.delete(one.id).deleted
    with pytest.raises(openai.NotFoundError):
        stored.retrieve(kept.id)


def test_what_is_not_asked_to_be_stored_is_not(client: openai.OpenAI, plain: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(plain.id)


def test_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": ["Once upon", "The cow"], "temperature": 0, "max_tokens": 4}
    said = client.completions.create(**asked, logprobs=2, echo=True)
    assert [choice.index for choice in said.choices] == [0, 1]
    for choice, prompt in zip(said.choices, asked["prompt"], strict=True):
        assert choice.text.startswith(prompt) and choice.logprobs and choice.logprobs.tokens
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.logprobs.text_offset and choice.logprobs.text_offset[1] == len(choice.logprobs.tokens[0])
    chunks = list(client.completions.create(**asked, stream=True))
    for index, choice in enumerate(said.choices):
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == index)
        assert asked["prompt"][index] + text == choice.text
    assert len(client.completions.create(**asked | {"temperature": 1.0}, n=2, best_of=3).choices) == 4


def test_embeddings(client: openai.OpenAI, http: httpx2.Client) -> None:
    said = client.embeddings.create(model=MODEL, input=["a cow", "a cow", "rain"])
    vectors = [one.embedding for one in said.data]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-2) and vectors[0] != vectors[2]
    assert math.hypot(*vectors[0]) == pytest.approx(1, abs=1e-3) and said.usage.prompt_tokens > 0
    numbers = http.post("/v1/embeddings", json={"model": MODEL, "input": "a cow"}).json()["data"][0]["embedding"]
    assert numbers == pytest.approx(vectors[0], abs=1e-2)
    with pytest.raises(openai.BadRequestError, match="cannot be shortened"):
        client.embeddings.create(model=MODEL, input="a", dimensions=3)


def test_models(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "luthier"
    for name in ("nothing", "Qwen/Qwen3-none", "ft:a:b:c:d"):
        for call in (client.models.retrieve, client.models.delete):
            with pytest.raises(openai.NotFoundError):
                call(name)


def test_a_client_that_leaves_is_not_answered_on(live: Live, http: httpx2.Client) -> None:
    def rows() -> float:
        return sum(figures["rows"] + figures["waiting"] for figures in live.service.host.figures().values())

    long = ASKED | {"max_completion_tokens": 2000, "n": 128, "temperature": 2}
    with http.stream("POST", "/v1/chat/completions", json=long | {"stream": True}) as answer:
        next(iter(answer.iter_lines()))
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/v1/chat/completions", json=long, timeout=0.3)
    end = time.monotonic() + 5
    while rows() and time.monotonic() < end:
        time.sleep(0.02)
    assert rows() == 0
