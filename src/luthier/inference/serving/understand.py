"""From what is asked to rows: rendered by the model's template, checked against what the model reads, with voice and grammar."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from functools import cached_property
from typing import Any

from luthier.core.errors import DataError, SpecError, did_you_mean
from luthier.core.example import Message
from luthier.inference.constrain import Constrainer, Following
from luthier.inference.generate import room, unsaid
from luthier.inference.serving.ask import Answering, Asked
from luthier.inference.serving.calls import Calls, Form, form_of
from luthier.inference.serving.drawing import Drawing
from luthier.inference.serving.pieces import Pieces
from luthier.inference.serving.rows import Question, Row
from luthier.inference.serving.voice import Voice
from luthier.models.model import Model

Tools = list[dict[str, Any]]


class Understanding:
    """How one model takes questions. Safe for many threads.

    Attributes:
        places: tokens its pool holds; longer rows cannot be answered.
    """

    def __init__(self, model: Model, *, places: int) -> None:
        self.model, self.places = model, places
        self.pieces = Pieces(model.renderer.tokenizer)
        self._making = threading.Lock()

    def writing(self, asked: Asked, answering: Answering, owner: str | None, *, occupied: int = 0) -> list[Row]:
        """The rows of a question, one for each answer.

        Args:
            occupied: tokens of the context that the adapter takes for itself.

        Raises:
            SpecError: a field is out of its range (`where` names it). DataError: the prompt is empty, too long, or refused by the template.
        """
        asked.check()
        if "next-token" not in self.model.family.GIVES:
            what = f"{self.model.name} reads texts whole and writes none."
            raise SpecError(what, where="model", remedy="Ask it for embeddings, or ask a decoder.", code="no_text")
        asked = replace(asked, logit_bias={**asked.logit_bias, **dict.fromkeys(unsaid(self.model), -100.0)})
        tools = self._offered(asked)
        prompt, text = self._prompt(asked, tools)
        limit = self._limit(asked, prompt, occupied)
        question = Question(asked, answering, prompt, owner, limit, self.model.renderer.end_tokens, text)
        grammar = self._grammar(asked, tools)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        names = frozenset(_name(tool) for tool in tools)
        rows = []
        for index in range(asked.n):
            drawing = Drawing(asked, index, seed=seed, grammar=grammar.again() if grammar else None)
            calls = Calls(names, asked.parallel_tool_calls and not _forced(asked)) if tools else None
            strips = self.pieces.strips and asked.messages is not None
            voice = Voice(index, asked.stop, asked.logprobs is not None, calls, strips)
            rows.append(Row(question, list(prompt), drawing, voice, "every" if asked.echo and asked.logprobs is not None else "last"))
        return rows

    def reading(self, prompts: list[list[int]], answering: Answering, owner: str | None, *, key: str = "") -> list[Row]:
        """Rows that are only read, for their mean state.

        Raises:
            DataError: one of them is empty or too long.
        """
        asked = Asked(model=answering.model, prompt=[], key=key)
        question = Question(asked, answering, [], owner, 0)
        for number, prompt in enumerate(prompts, 1):
            self._fits(prompt, f"input {number}")
        return [Row(question, prompt, reads="mean") for prompt in prompts]

    def plain(self, text: str | list[int]) -> list[int]:
        """Tokens of a text that is no conversation, with what the tokenizer puts before every text; ids are taken as they are.

        Raises:
            SpecError: an id is none of this model's.
        """
        renderer = self.model.renderer
        if isinstance(text, str):
            return renderer.prompt([Message("user", text)]) if renderer.plain else renderer.parts.prefix + renderer.encode(text)
        size = self.model.embedding().num_embeddings
        if wrong := next((token for token in text if not 0 <= token < size), None):
            raise _bad("prompt", f"Token id {wrong} is not one of the model's {size:,}.", "Use the tokenizer of this model.")
        return list(text)

    def _prompt(self, asked: Asked, tools: Tools) -> tuple[list[int], str]:
        if asked.messages is not None:
            return self.model.renderer.prompt(asked.messages, tools=tools), ""
        assert asked.prompt is not None
        text = asked.prompt if isinstance(asked.prompt, str) else self.model.renderer.decode(asked.prompt)
        return self.plain(asked.prompt), text

    def _limit(self, asked: Asked, prompt: list[int], occupied: int) -> int:
        self._fits(prompt, "the prompt", occupied=occupied)
        size = self.model.embedding().num_embeddings
        if any(not 0 <= token < size for token in asked.logit_bias):
            raise _bad("logit_bias", f"A token id is not one of the model's {size:,}.", "Use the tokenizer of this model.")
        left = min(self.model.context - occupied, self.places) - len(prompt)
        return left if asked.max_tokens is None else min(asked.max_tokens, left)

    def _fits(self, prompt: list[int], name: str, *, occupied: int = 0) -> None:
        eyes = self.model.renderer.eyes
        if eyes and eyes.id in prompt:  # before it stops the pass of everybody
            what = f"{name} has {eyes.token}, which stands for a picture, and the service takes words alone."
            raise DataError(what, remedy="Delete it from the words.", code="unsupported_media")
        left = room(self.model, prompt, name=name)
        if left <= occupied or len(prompt) + 1 > self.places:
            most = min(self.model.context - occupied, self.places)
            what = f"{name} has {len(prompt):,} tokens, but here {self.model.name} reads {most:,} and needs room for an answer."
            raise DataError(what, remedy="Shorten it, or give the service more memory for keys and values.", code="prompt_too_long")

    def _offered(self, asked: Asked) -> Tools:
        """The tools that may be called."""
        if asked.tool_choice == "none" or not asked.tools:
            if asked.tool_choice not in ("none", "auto"):
                raise _bad("tool_choice", "A call is wanted, but no tool is offered.", "Send tools.")
            return []
        names = [_name(tool) for tool in asked.tools]
        if not all(names):
            raise _bad("tools", "A tool has no name.", 'Send {"type": "function", "function": {"name": ..., "parameters": ...}}.')
        wanted = _chosen(asked.tool_choice)
        if wanted is None:
            raise _bad("tool_choice", f"{asked.tool_choice!r} is no choice.", "Choose none, auto, required, or name a function.")
        if wanted and wanted not in names:
            raise _bad("tool_choice", f"There is no tool {wanted!r}.", did_you_mean(wanted, names))
        return asked.tools

    def _grammar(self, asked: Asked, tools: Tools) -> Following | None:
        if tools and _forced(asked):
            form, wanted = self.form, _chosen(asked.tool_choice)
            if form is None:
                what = "The model's template writes calls in a form that cannot be forced."
                raise SpecError(what, where="tool_choice", remedy="Choose auto, or a model with another template.", code="bad_schema")
            return self.constrainer.calls((form.opening, form.middle, form.closing), [t for t in tools if not wanted or _name(t) == wanted])
        if asked.format is None:
            return None
        return self.constrainer.schema(asked.format if isinstance(asked.format, dict) else None)

    @cached_property
    def form(self) -> Form | None:
        """How the template writes a call."""
        return form_of(self.model.renderer)

    @property
    def constrainer(self) -> Constrainer:
        """Made when the first answer must follow a grammar: that takes up to a second."""
        with self._making:
            return self._constrainer

    @cached_property
    def _constrainer(self) -> Constrainer:
        return Constrainer(self.model.renderer, self.model.head().out_features)


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _chosen(choice: str | dict[str, Any]) -> str | None:
    """The tool that must be called; empty where any may; None for what is no choice."""
    if isinstance(choice, dict):
        return _name(choice) or None
    return "" if choice in ("auto", "required", "none") else None


def _forced(asked: Asked) -> bool:
    return asked.tool_choice not in ("auto", "none")


def _bad(where: str, what: str, remedy: str) -> SpecError:
    return SpecError(what, where=where, remedy=remedy, code="bad_value")
