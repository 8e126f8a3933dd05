"""What chats and completions have in common: how tokens are drawn, and what was used."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Answer, Asked, Flag, Int, Number

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
Bias = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=1024)
]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]


class StreamOptions(Asked):
    """include_usage: one more chunk at the end, with the tokens used."""

    without_effect = frozenset({"include_obfuscation"})
    include_usage: Flag | None = None
    include_obfuscation: Flag | None = None


class Sampling(Asked):
    """How an answer is drawn."""

    model: ModelName
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    n: Annotated[Int, Field(ge=1, le=128)] | None = None
    seed: Annotated[Int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None

    def drawn(self) -> dict[str, Any]:
        """Fields of the engine's `Asked` about drawing. A `top_p` of 0 leaves only the likeliest token, as temperature 0 does."""
        temperature, top_p = _or(self.temperature, 1.0), _or(self.top_p, 1.0)
        return {
            "model": self.model,
            "n": _or(self.n, 1),
            "temperature": temperature if top_p else 0.0,
            "top_p": top_p or 1.0,
            "seed": self.seed,
            "stop": [self.stop] if isinstance(self.stop, str) else list(self.stop or ()),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
            "presence_penalty": _or(self.presence_penalty, 0.0),
            "frequency_penalty": _or(self.frequency_penalty, 0.0),
        }

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


class PromptDetails(Answer):
    """Of the prompt's tokens: known from before."""

    cached_tokens: int


class Usage(Answer):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
