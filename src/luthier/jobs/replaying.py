"""Rows of what must not be forgotten, mixed into those that are learned (``objective.replay``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import NotFound
from luthier.core.files import fingerprint, sha256
from luthier.core.home import cache_folder
from luthier.core.sequence import Row, Rows
from luthier.core.spec import Spec
from luthier.data.select import Selected
from luthier.data.tokenise import tokenise
from luthier.models.model import Model


class Mixed:
    """Rows with others behind them: as many as make their share, evenly spread over what there is (implements `core.sequence.Rows`)."""

    def __init__(self, rows: Rows, others: Rows, *, share: float) -> None:
        self.rows, self.others = rows, others
        self.count = max(1, round(len(rows) * share / (1 - share)))

    def __len__(self) -> int:
        return len(self.rows) + self.count

    def __getitem__(self, index: int, /) -> Row:
        index %= len(self)
        if index < len(self.rows):
            return self.rows[index]
        place = index - len(self.rows)
        return self.others[place % len(self.others) if self.count > len(self.others) else place * len(self.others) // self.count]

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def mixed(spec: Spec, rows: Rows, model: Model) -> Rows:
    """`rows`, and the share of others the objective asks for; the same where it asks for none.

    Raises:
        NotFound: the file is not there. DataError: one of its rows cannot be learned.
    """
    path = _file(spec)
    if path is None:
        return rows
    data = spec.data.model_copy(update={"file": str(path), "format": "auto", "group": ""})
    examples, key = Selected.of(path, pairs=False, learn=data.learn), fingerprint(identity(spec))
    tokens = tokenise(examples, renderer=model.renderer, data=data, context=model.context, cache=cache_folder() / "tokens", key=key)
    return Mixed(rows, tokens, share=float(spec.objective.options["replay_share"]))


def identity(spec: Spec) -> list[Any]:
    """What decides the rows that are mixed in."""
    path = _file(spec)
    return ["replay", sha256(path), spec.objective.options["replay_share"], spec.data.learn, spec.data.too_long] if path else []


def _file(spec: Spec) -> Path | None:
    name = str(spec.objective.options.get("replay", ""))
    if name and not Path(name).is_file():
        remedy = "Give objective.replay the path of an existing file."
        raise NotFound("There is no such file of rows to replay.", where=name, remedy=remedy, code="no_file")
    return Path(name) if name else None
