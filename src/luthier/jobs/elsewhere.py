"""Another engine answers in our place: vLLM, SGLang, llama.cpp's server, or whatever else speaks the same wire. `Asked` goes out as a
request of that wire and comes back as deltas; adapters are handed over by the folder they lie in, which both sides must see.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx2

from luthier.core.errors import LuthierError, NotFound, ResultError, SpecError
from luthier.core.example import Message
from luthier.inference.serving.ask import Answering, Asked, Delta, Finish, TokenInfo, ToolCall, ours

CONNECT_SECONDS, READ_SECONDS = 5.0, 600.0
"""Patience with the other engine: until it takes a connection, and between two pieces of an answer."""

AT_ONCE = 64
"""Requests under way; each waits in a thread of its own."""

FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Elsewhere:
    """One engine.

    Args:
        url: with or without ``/v1`` at its end. key: sent as bearer, where the engine wants one.
    """

    def __init__(self, url: str, *, key: str = "") -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx2.Limits(max_connections=2 * AT_ONCE)
        # trust_env would send prompts through whatever proxy the environment names
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, limits=limits, trust_env=False)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="elsewhere")

    def __repr__(self) -> str:
        return f"Elsewhere({self.url!r})"

    def ask(self, asked: Asked, answering: Answering) -> Answering:
        """Answer `asked` through `answering`, from a thread of ours."""
        self._pool.submit(self._ask, asked, answering)
        return answering

    def embed(self, model: str, inputs: Sequence[str | list[int]]) -> tuple[list[list[float]], int]:
        """A vector for each input, as the engine makes them, and the tokens read.

        Raises:
            LuthierError: the engine refused, or cannot be reached.
        """
        found = self._post("/v1/embeddings", {"model": model, "input": list(inputs), "encoding_format": "float"})
        return [row["embedding"] for row in found["data"]], int((found.get("usage") or {}).get("prompt_tokens") or 0)

    def models(self) -> list[str]:
        """Ids the engine answers to.

        Raises:
            LuthierError: as `embed`.
        """
        return [str(row["id"]) for row in self._call("GET", "/v1/models")["data"]]

    def hand_over(self, name: str, folder: Path) -> None:
        """Have the engine load an adapter in the PEFT layout; `name` is then a model of its. vLLM's way first, then SGLang's.

        Raises:
            SpecError: it loads none while it runs. LuthierError: it refused the adapter, or cannot be reached.
        """
        given = {"lora_name": name, "lora_path": str(folder)}
        for path in ("/v1/load_lora_adapter", "/load_lora_adapter"):
            response = self._send("POST", path, given)
            if response.status_code not in (404, 405):
                if response.is_error and "already" not in response.text:
                    raise _refused(response)
                return
        what = f"The engine at {self.url} takes no adapters while it runs."
        remedy = "Start it with the adapter under this name, or let vLLM run with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
        raise SpecError(what, where="backend", remedy=remedy, code="engine_refused")

    def let_go(self, name: str) -> None:
        """Have the engine forget an adapter, if it can."""
        for path in ("/v1/unload_lora_adapter", "/unload_lora_adapter"):
            if self._send("POST", path, {"lora_name": name}).status_code not in (404, 405):
                return

    def logprobs(self, model: str, tokens: list[int], count: int) -> list[float] | None:
        """Log-probabilities of the last `count` of `tokens`, or None where the engine does not tell those of a prompt."""
        body = {"model": model, "prompt": tokens, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        try:
            told = (self._post("/v1/completions", body)["choices"][0].get("logprobs") or {}).get("token_logprobs")
        except SpecError:
            return None
        values = (told or [])[: len(tokens)]
        return values[-count:] if len(values) == len(tokens) and None not in values[-count:] else None

    def prompt_tokens(self, model: str, messages: list[Message], tools: list[dict[str, Any]]) -> int:
        """Tokens of a conversation as the engine's template renders it."""
        body: dict[str, Any] = {"model": model, "messages": [_message(m) for m in messages], "max_tokens": 1, "temperature": 0}
        found = self._post("/v1/chat/completions", body | ({"tools": tools} if tools else {}))
        return int((found.get("usage") or {}).get("prompt_tokens") or 0)

    def close(self) -> None:
        """Break off what is under way."""
        self._client.close()
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, asked: Asked, answering: Answering) -> None:
        if answering.cancelled.is_set():
            answering.say(None)
            return
        path = "/v1/completions" if asked.messages is None else "/v1/chat/completions"
        try:
            with self._client.stream("POST", path, json=_body(asked)) as response:
                answering.on_cancel(response.close)
                if response.is_error:
                    response.read()
                    raise _refused(response)
                self._hear(asked, answering, response)
            answering.say(None)
        except Exception as error:
            answering.say(None if answering.cancelled.is_set() else self._told(error))

    def _hear(self, asked: Asked, answering: Answering, response: httpx2.Response) -> None:
        end = math.inf if asked.seconds is None else time.monotonic() + asked.seconds
        calls: dict[tuple[int, int], dict[str, str]] = {}
        for chunk in _chunks(response):
            if answering.cancelled.is_set():
                return
            if time.monotonic() > end:
                what = f"The answer was not complete after {asked.seconds:g} seconds."
                raise ResultError(what, remedy="Allow more time, or ask for fewer tokens.", code="too_late")
            if "error" in chunk:
                raise ResultError(f"The engine at {self.url} failed: {chunk['error']}.", remedy="See its log.", code="engine_failed")
            for choice in chunk.get("choices") or []:
                answering.say(_delta(choice, calls))
            if usage := chunk.get("usage"):
                answering.usage.prompt, answering.usage.completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
                answering.usage.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._send(method, path, body)
        if response.is_error:
            raise _refused(response)
        return cast("dict[str, Any]", response.json())

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        try:
            return self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> LuthierError:
        if not isinstance(error, httpx2.HTTPError):
            return ours(error)
        what = f"The engine at {self.url} does not answer: {type(error).__name__}: {error}."
        return ResultError(what, where="backend", remedy="See whether it runs, and at this address.", code="engine_unreachable")


def _body(asked: Asked) -> dict[str, Any]:
    """The request; what was not asked for is left to the engine."""
    body: dict[str, Any] = {
        "model": asked.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": asked.temperature,
    }
    for name in ("n", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "seed", "stop"):
        value = getattr(asked, name)
        if value not in (None, [], Asked.__dataclass_fields__[name].default):
            body[name] = value
    if asked.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in asked.logit_bias.items()}
    return body | (_completion(asked) if asked.messages is None else _chat(asked, asked.messages))


def _completion(asked: Asked) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": asked.prompt}
    if asked.echo:
        body["echo"] = True
    return body if asked.logprobs is None else body | {"logprobs": asked.logprobs}


def _chat(asked: Asked, messages: list[Message]) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in messages]}
    if asked.tools:
        body |= {"tools": asked.tools, "tool_choice": asked.tool_choice, "parallel_tool_calls": asked.parallel_tool_calls}
    if asked.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": asked.logprobs}
    if isinstance(asked.format, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": asked.format, "strict": True}}
    elif asked.format:
        body["response_format"] = {"type": asked.format}
    return body


def _message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    for name in ("tool_calls", "tool_call_id", "name"):
        if value := getattr(message, name):
            plain[name] = value
    return plain


def _chunks(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream (server-sent, ended by ``[DONE]``)."""
    for line in response.iter_lines():
        if line.startswith("data:") and (data := line[5:].strip()) not in ("", "[DONE]"):
            yield json.loads(data)


def _delta(choice: dict[str, Any], calls: dict[tuple[int, int], dict[str, str]]) -> Delta:
    """One choice of one chunk. Pieces of tool calls are gathered in `calls` until the answer ends."""
    index, said = int(choice.get("index") or 0), choice.get("delta") or {}
    delta = Delta(index, said.get("content") or choice.get("text") or "", _tokens(choice.get("logprobs") or {}))
    for piece in said.get("tool_calls") or []:
        mine = calls.setdefault((index, int(piece.get("index") or 0)), {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        mine["id"] = mine["id"] or piece.get("id") or ""
        mine["name"] += function.get("name") or ""
        mine["arguments"] += function.get("arguments") or ""
    if finish := choice.get("finish_reason"):
        delta.finish = FINISHES.get(finish, "stop")
        delta.tool_calls = [ToolCall(number, **call) for (of, number), call in sorted(calls.items()) if of == index]
    return delta


def _tokens(told: dict[str, Any]) -> list[TokenInfo]:
    """Log-probabilities as chat completions tell them, or as completions do. Ids are not on the wire: -1."""
    if "content" in told:
        return [_info(one) for one in told["content"] or []]
    texts, values, tops = (told.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    tops = [*tops, *[None] * (len(texts) - len(tops))]
    return [
        TokenInfo(-1, text.encode(), value, tuple((-1, other.encode(), logprob) for other, logprob in (top or {}).items()))
        for text, value, top in zip(texts, values, tops, strict=True)
    ]


def _info(one: dict[str, Any]) -> TokenInfo:
    top = tuple((-1, _bytes(other), other["logprob"]) for other in one.get("top_logprobs") or [])
    return TokenInfo(-1, _bytes(one), one["logprob"], top)


def _bytes(one: dict[str, Any]) -> bytes:
    return bytes(one["bytes"]) if one.get("bytes") is not None else str(one.get("token", "")).encode()


def _refused(response: httpx2.Response) -> LuthierError:
    try:
        error = response.json().get("error")
        message = error.get("message") if isinstance(error, dict) else error or response.text
    except (ValueError, AttributeError):
        message = response.text
    what = f"The engine said {response.status_code}: {str(message)[:500]}"
    if response.status_code == 404:
        return NotFound(what, where="model", remedy="See which models it serves.", code="unknown_model")
    if response.status_code < 500 and response.status_code not in (401, 403, 429):
        return SpecError(what, remedy="Ask for what it can do.", code="engine_refused")
    return ResultError(what, where="backend", remedy="See its log; ask again in a while.", code="engine_failed")
