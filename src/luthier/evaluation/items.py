"""Every compared row, kept: prompt, expected, both answers, scores. One JSON line each in ``evaluation/items.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from luthier.core.errors import NotFound
from luthier.core.files import write_text


@dataclass
class Answer:
    """What one model said to one row.

    Attributes:
        text: the answer, decoded. tokens: how many were generated, the end token included.
        stopped: the model ended by itself. scores: by metric name, 0 to 1.
    """

    text: str
    tokens: int
    stopped: bool
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class Item:
    """One row, answered by base and tuned.

    Attributes:
        file, row: where the row came from. prompt: its messages, role and content. expected: the answer in the data.
    """

    file: str
    row: int
    prompt: list[dict[str, str]]
    expected: str
    base: Answer
    tuned: Answer

    def gain(self, metric: str) -> float:
        """Tuned minus base under `metric`."""
        return self.tuned.scores[metric] - self.base.scores[metric]


def write_items(items: Iterable[Item], path: Path) -> None:
    """Write all items, one JSON object a line; the file is whole or not there."""
    write_text(path, "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items))


def read_items(path: Path) -> Iterator[Item]:
    """The items of a run, in file order.

    Raises:
        NotFound: the run was not evaluated.
    """
    if not path.is_file():
        raise NotFound("This run has no evaluated items.", where=str(path), remedy="Run luthier evaluate RUN --data FILE first.")
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            yield Item(**{**fields, "base": Answer(**fields["base"]), "tuned": Answer(**fields["tuned"])})
