"""Does a row fit into what the model reads, and does it teach anything? Needs the model's own words for it: its renderer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from luthier.core.errors import DataError
from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.sequence import Sequence
from luthier.core.spec import DataSpec
from luthier.data.folder import Parts

_TURN_TOKENS = 64
"""More than any template writes around one turn. (The system text some templates add by themselves is below it, too.)"""
_ALWAYS = 100
"""So many rows are rendered whatever their length: a template that leaves out a field does so from the first row on."""
_CHOICES = "Set data.too_long to split, cut_prompt or drop, or choose a model with a longer context."


class Renders(Protocol):
    """What is needed of a renderer here."""

    parts: Parts

    def render(self, example: Example, *, learn: str = "answers") -> list[Sequence]:
        """The row as token paths."""
        ...


class Fitting:
    """Looks for rows longer than the context, and for rows that teach nothing.

    Args:
        context: longest path in tokens. begun: the first rows of the file were looked at elsewhere.
    """

    def __init__(self, renderer: Renders, context: int, data: DataSpec, *, begun: bool = False) -> None:
        self._renderer, self._context, self._data = renderer, context, data
        self._seen = _ALWAYS if begun else 0

    def look(self, example: Example) -> Iterator[Problem]:
        """Problems of one row. Rows that are short in bytes are passed without rendering: a token stands for at least one byte."""
        self._seen += 1
        if self._seen > _ALWAYS and self._surely_short(example):
            return
        try:
            paths = self._renderer.render(example, learn=self._data.learn)
        except DataError as error:
            yield self._problem(example, error.code if error.code != "data" else "not_rendered", error.what, error.remedy)
            return
        longest = max((len(path.tokens) for path in paths), default=0)
        if longest > self._context:
            refuse = self._data.too_long == "refuse"
            remedy = _CHOICES if refuse else f"data.too_long is {self._data.too_long}: so it will be done, and the ledger says where."
            message = f"{longest:,} tokens, but the model reads {self._context:,}."
            yield self._problem(example, "too_long", message, remedy, warning=not refuse)
        if not any(path.weights.any() for path in paths):
            yield self._problem(example, "teaches_nothing", "No token of the row is learned.", "Add an answer, or delete the row.")

    def _surely_short(self, example: Example) -> bool:
        turns = [*example.messages, *example.chosen, *example.rejected]
        if example.tools or any(turn.tool_calls or turn.thinking for turn in turns):
            return False
        size = len(example.text.encode()) + sum(len(turn.content.encode()) + _TURN_TOKENS for turn in turns) + _TURN_TOKENS
        return size <= self._context

    @staticmethod
    def _problem(example: Example, code: str, message: str, remedy: str, *, warning: bool = False) -> Problem:
        return Problem(example.source.file, example.source.row, "", code, message, remedy, "warning" if warning else "error")
