"""A row as the model will see it, with exactly the tokens that are learned set apart.

On a terminal learned text has a colour; elsewhere it stands between ⟦ and ⟧. A path that forks from an earlier one says where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from luthier.core.errors import DataError, NotFound
from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.sequence import Sequence
from luthier.data.read import read
from luthier.data.render import Renderer

LEARNED, READ = "bold black on green", "dim"


@dataclass(slots=True, frozen=True)
class Stretch:
    """Neighbouring tokens of equal weight, as text."""

    text: str
    tokens: int
    weight: float


@dataclass(slots=True, frozen=True)
class Shown:
    """One token path.

    Attributes:
        part: ``chosen`` or ``rejected`` for a pair. tokens, learned: how many.
        shared: tokens at the beginning that an earlier path of the row holds too. stretches: what follows them.
    """

    part: str
    tokens: int
    learned: int
    shared: int
    stretches: list[Stretch]

    def to_json(self) -> dict[str, Any]:
        """The path as plain fields."""
        stretches = [{"text": s.text, "tokens": s.tokens, "weight": s.weight} for s in self.stretches]
        return {"part": self.part, "tokens": self.tokens, "learned": self.learned, "shared": self.shared, "stretches": stretches}


def shown(example: Example, renderer: Renderer, *, learn: str = "answers") -> list[Shown]:
    """The paths of a row.

    Raises:
        DataError: the row cannot be rendered, see `Renderer.render`.
    """
    before: list[Sequence] = []
    paths = []
    for sequence in renderer.render(example, learn=learn):
        shared = max((_shared(other, sequence) for other in before), default=0)
        stretches = list(_stretches(sequence, renderer, start=shared))
        paths.append(Shown(sequence.part, len(sequence.tokens), int(np.count_nonzero(sequence.weights)), shared, stretches))
        before.append(sequence)
    return paths


def chosen(file: Path, *, format: str = "auto", rows: int, row: int = 0) -> list[Example]:
    """The first rows of a file, or the one that is asked for.

    Raises:
        DataError: the row that is asked for does not pass the check.
        NotFound: there is no such row.
    """
    if not row:
        return list(islice((item for item in read(file, format=format) if isinstance(item, Example)), rows))
    for item in read(file, format=format):
        if isinstance(item, Example) and item.source.row == row:
            return [item]
        if isinstance(item, Problem) and item.row == row and item.severity == "error":
            raise DataError(item.message, where=f"{item.file} row {row} {item.field}".rstrip(), remedy=item.remedy, code=item.code)
    raise NotFound(f"There is no row {row}.", where=str(file), remedy="Rows count from 1; `luthier data check` says how many there are.")


def print_row(example: Example, paths: Iterable[Shown], console: Console) -> None:
    """Draw the paths of a row."""
    paths = list(paths)
    total, learned = sum(path.tokens for path in paths), sum(path.learned for path in paths)
    forks = f" in {len(paths)} paths" if len(paths) > 1 else ""
    console.print(Text(f"{example.source}: {learned:,} of {total:,} tokens learned{forks}", style="bold"))
    for number, path in enumerate(paths, 1):
        if len(paths) > 1:
            name = f"path {number}{f' ({path.part})' if path.part else ''}: {path.learned:,} of {path.tokens:,} tokens learned"
            console.print(Text(name + (f"; begins with {path.shared:,} tokens of an earlier path" if path.shared else ""), style="italic"))
        console.print(_drawn(path, colour=console.is_terminal and not console.no_color), soft_wrap=True)
    console.print()


def _drawn(path: Shown, *, colour: bool) -> Text:
    text = Text().append("..." if path.shared else "", style=READ if colour else "")
    for stretch in path.stretches:
        weight = f"{stretch.weight:g}x " if 0 < stretch.weight < 1 else ""
        if stretch.weight == 0:
            text.append(stretch.text, style=READ if colour else "")
        elif colour:
            text.append(weight + stretch.text, style=LEARNED)
        else:
            text.append(f"⟦{weight}{stretch.text}⟧")
    return text


def _stretches(sequence: Sequence, renderer: Renderer, *, start: int) -> Iterator[Stretch]:
    """Text is cut from the decoded whole, for some tokenizers decode the first word of a text differently."""
    tokens = sequence.tokens.tolist()
    place, written = start, len(renderer.decode(tokens[:start]))
    for weight, group in groupby(sequence.weights[start:].tolist()):
        count = sum(1 for _ in group)
        place += count
        text = renderer.decode(tokens[:place])
        yield Stretch(text[written:], count, weight)
        written = len(text)


def _shared(left: Sequence, right: Sequence) -> int:
    length = min(len(left.tokens), len(right.tokens))
    different = np.flatnonzero(left.tokens[:length] != right.tokens[:length])
    return int(different[0]) if len(different) else length
