"""From a file to tokens: recognise, check, split, tokenise, account. No model weights: only the base's tokenizer and template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, NotFound
from luthier.core.events import Listener, Note, Progress, Stage
from luthier.core.example import Example
from luthier.core.home import cache_folder
from luthier.core.spec import Spec
from luthier.data.check import check
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.report import Report
from luthier.data.select import Selected
from luthier.data.split import Split, plan_split
from luthier.data.tokens import TokenTable
from luthier.jobs.specs import OBJECTIVES

SHOWN = 8
"""Problems told in the error itself; `luthier data check` and the report tell all."""


class DataRefused(DataError):
    """The check found errors; `report` has all of them."""

    def __init__(self, report: Report) -> None:
        self.report = report
        found = [str(problem).removeprefix(f"{report.file} ") for problem in report.problems if problem.severity == "error"]
        more = report.errors - len(found[:SHOWN])
        listed = "".join(f"\n    {text}" for text in found[:SHOWN]) + (f"\n    ... and {more:,} more" if more > 0 else "")
        super().__init__(
            f"The examples do not pass: {report.errors:,} error{'' if report.errors == 1 else 's'}, {report.warnings:,} warnings.{listed}",
            where=str(report.file),
            remedy=f"Correct them; `luthier data check {report.file}` lists every one.",
            code="data_refused",
        )

    def to_json(self) -> dict[str, Any]:
        """The error with the whole report."""
        return {**super().to_json(), "report": self.report.to_json()}


@dataclass
class Prepared:
    """The data of a run, ready to learn from.

    Attributes:
        rows, valid: tokens of the training and of the held-out rows. held_out: the latter as examples, for generation.
        split: which is which, and why.
    """

    rows: TokenTable
    valid: TokenTable
    held_out: list[Example]
    split: Split


def inspect(spec: Spec, renderer: Renderer, *, context: int, listen: Listener) -> Report:
    """Read every row of the training and held-out files before anything is spent; their tokens are made on the way.

    Raises:
        NotFound: a file is not there. DataRefused: there are errors, all of them in its report.
    """
    for path in _files(spec):
        if not path.is_file():
            raise NotFound(
                "There is no such file of examples.", where=str(path), remedy="Give the path of an existing file.", code="no_file"
            )
    listen(Stage("check", Path(spec.data.file).name))
    report = _checked(spec, renderer, context, listen)
    listen(Note(f"{report.rows:,} rows, format {report.recognition.format}: {report.recognition.reason}"))
    for text in _warnings(report):
        listen(Note(text, level="warning"))
    if report.errors:
        raise DataRefused(report)
    return report


def _checked(spec: Spec, renderer: Renderer, context: int, listen: Listener) -> Report:
    """The check, from the cache where nothing has changed since."""
    return check(
        Path(spec.data.file),
        data=spec.data,
        renderer=renderer,
        context=context,
        pairs=_compares(spec),
        cache=cache_folder() / "tokens",
        on_progress=lambda done, total: listen(Progress("check", done, total, "bytes")),
    )


def _warnings(report: Report) -> list[str]:
    """One sentence per kind of warning: how often, and the first of it."""
    first = {p.code: p for p in reversed(report.problems) if p.severity == "warning"}
    told = []
    for code, problem in reversed(first.items()):
        times, row = report.counts[code], f"row {problem.row}: " if problem.row else ""
        row = row if problem.file == report.file else f"{Path(problem.file).name} {row}"
        told.append(f"{code}{f', {times:,} times, first' if times > 1 else ''} {row}{problem.message}")
    return told


def prepare(spec: Spec, renderer: Renderer, *, context: int, listen: Listener) -> Prepared:
    """Split and tokenise; both depend on content only, so that doing it again gives the same (and comes from the cache)."""
    report = _checked(spec, renderer, context, listen)
    if report.tokens is None:
        raise DataRefused(report)
    split = plan_split(Path(spec.data.file), data=spec.data, seed=spec.train.seed, lots=report.lots)
    listen(Note(f"{len(split.train):,} rows to learn from, {len(split.valid):,} held out: {split.reason}"))
    listen(Stage("ledger"))
    for text in _told(spec, renderer):
        listen(Note(text))
    return Prepared(
        rows=report.tokens.only(split.train),
        valid=(report.held_out or report.tokens).only(split.valid),
        held_out=list(_held_out(spec, split)),
        split=split,
    )


def learned_rows(spec: Spec, split: Split) -> Selected:
    """The training rows as examples, in file order."""
    return _selected(Path(spec.data.file), spec, split.train)


def _told(spec: Spec, renderer: Renderer) -> Iterator[str]:
    """What is done to rows that their owner may not expect."""
    yield from renderer.notes
    first = next((row for row in read(Path(spec.data.file), format=spec.data.format) if isinstance(row, Example)), None)
    if first is not None and first.form == "preference" and not _compares(spec):
        yield f"Rows are pairs of answers: {spec.objective.name} learns the chosen one and does not read the rejected one."


def _compares(spec: Spec) -> bool:
    pairs: bool = OBJECTIVES.load(spec.objective.name).Objective.pairs
    return pairs


def _files(spec: Spec) -> list[Path]:
    return [Path(spec.data.file), *([Path(spec.data.valid)] if isinstance(spec.data.valid, str) else [])]


def _held_out(spec: Spec, split: Split) -> Selected:
    if isinstance(spec.data.valid, str):
        return _selected(Path(spec.data.valid), spec, None)
    return _selected(Path(spec.data.file), spec, split.valid)


def _selected(path: Path, spec: Spec, rows: list[int] | None) -> Selected:
    return Selected.of(
        path,
        format=spec.data.format,
        group=spec.data.group,
        rows=None if rows is None else frozenset(rows),
        pairs=_compares(spec),
        learn=spec.data.learn,
    )
