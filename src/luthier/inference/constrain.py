"""Answers that follow a JSON schema or a call's form: the one door to llguidance, which says at each step what tokens may come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from luthier.core.errors import ResultError, SpecError
from luthier.data.render import Renderer

if TYPE_CHECKING:
    from llguidance import LLMatcher

SPACE = r"( |\n {0,32})?"
"""White space between the parts of JSON: none, a space, or a line end with an indentation. Unbounded, weak models fill pages with it."""

OBJECT: dict[str, Any] = {"type": "object"}


class Constrainer:
    """Makes grammars for one tokenizer. Building takes up to a second for a large vocabulary, so it is done on first use and kept.

    Args:
        vocabulary: width of the model's scores; ids the tokenizer does not know are never allowed.
    """

    def __init__(self, renderer: Renderer, vocabulary: int) -> None:
        from llguidance import LLTokenizer

        content = renderer.tokenizer.library.to_str()  # as loaded: a file's own truncation and padding are switched off
        self.tokenizer = LLTokenizer(content, n_vocab=vocabulary, eos_token=sorted(renderer.end_tokens))
        self.vocabulary, self.renderer = vocabulary, renderer

    def schema(self, schema: dict[str, Any] | None = None) -> Following:
        """A grammar for any JSON object, or for what `schema` describes.

        Raises:
            SpecError: the schema asks for what cannot be followed; the library's words are passed on.
        """
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema or OBJECT, overrides={"whitespace_pattern": SPACE})
        except ValueError as error:
            raise _refused(str(error)) from error
        return self._following(grammar)

    def calls(self, parts: tuple[str, str, str], tools: Sequence[dict[str, Any]]) -> Following:
        """A grammar for one call of one of `tools`.

        Args:
            parts: what stands before the name, between name and arguments, and after them.
        """
        from llguidance import LLMatcher

        opening, middle, closing = map(self._literal, parts)
        rules = []
        for number, tool in enumerate(tools):
            function = tool.get("function") or {}
            schema = {**OBJECT, **(function.get("parameters") or {}), "x-guidance": {"whitespace_pattern": SPACE}}
            rules.append(f"call_{number}: {self._literal(str(function.get('name', '')))} {middle} args_{number}")
            rules.append(f"args_{number}: %json {json.dumps(schema)}")
        either = " | ".join(f"call_{number}" for number in range(len(tools)))
        return self._following(LLMatcher.grammar_from_lark("\n".join([f"start: {opening} ({either}) {closing}", *rules])))

    def _literal(self, text: str) -> str:
        """A text in the grammar's own writing; added tokens by their number, because they cannot be spelled."""
        added = self.renderer.tokenizer.added
        split = self.renderer.tokenizer.added_pattern
        parts = [part for part in (split.split(text) if split else [text]) if part]
        return " ".join(f"<[{added[part]}]>" if part in added else json.dumps(part) for part in parts) or '""'

    def _following(self, grammar: str) -> Following:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Following(matcher, self.vocabulary)


class Following:
    """One answer's place in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def again(self) -> Following:
        """The same grammar for another answer, at the same place."""
        return Following(self._matcher.deep_copy(), self._vocabulary)

    def allowed(self) -> Tensor:
        """Bool ``[V]``: which tokens may come next; end tokens where the answer may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool))

    def take(self, token: int) -> bool:
        """A token came. Whether nothing can follow it.

        Raises:
            ResultError: the grammar does not allow it, or became too large to follow.
        """
        if not self._matcher.consume_token(token):
            what = f"The answer cannot follow its schema: {self._matcher.get_error()}."
            raise ResultError(what, remedy="Ask for a simpler schema.", code="answer_failed")
        return bool(self._matcher.is_stopped())


def _refused(why: str) -> SpecError:
    return SpecError(
        f"The schema cannot be followed: {why}.",
        where="response_format",
        remedy="Use the parts of JSON Schema that llguidance documents; begin with types, properties and required.",
        code="bad_schema",
    )
