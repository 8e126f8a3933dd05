"""Check a file of examples, look at it, split it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.progress import screen
from luthier.core.errors import DataError, SpecError
from luthier.core.events import Progress, Stage

if TYPE_CHECKING:
    from luthier.core.problem import Problem
    from luthier.core.spec import DataSpec
    from luthier.data.bytes import OnBytes
    from luthier.data.report import Report
    from luthier.data.split import Split

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

File = Annotated[Path, typer.Argument(help="The examples: JSONL, JSON, CSV, TSV, Parquet or text, .gz too.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Format = Annotated[str, typer.Option(help="Name of a format; auto recognises it and says why.")]
Group = Annotated[str, typer.Option(help="Field whose equal values stay on one side of the split.")]


@app.command("check")
def check_file(
    file: File,
    model: Annotated[str, typer.Option(help="Also find rows too long for this model, or that its template cannot show.")] = "",
    valid: Annotated[Path | None, typer.Option(help="A file of held-out rows that must share none with this one.")] = None,
    format: Format = "auto",
    group: Group = "",
    json: Json = False,
) -> int:
    """Every problem of a file, before anything is spent."""
    from luthier.data.check import check

    data = _spec(format=format, group=group)
    renderer, context = _model(model) if model else (None, None)
    with _progress("check", str(file)) as hear:
        report = check(file, data=data, renderer=renderer, context=context, valid=valid, on_progress=hear)
    answer(report.to_json(), json=json, show=lambda: _show(report))
    return 0 if report.ok else 1


@app.command("show")
def show_rows(
    file: File,
    model: Annotated[str, typer.Option(help="Whose tokens: a name of the catalog or a folder.")] = "luthier-mini",
    rows: Annotated[int, typer.Option(min=1, help="How many rows, from the first.")] = 3,
    row: Annotated[int, typer.Option(min=0, help="Only this row (its line or record in FILE).")] = 0,
    learn: Annotated[str, typer.Option(help="answers, last_answer or everything.")] = "answers",
    format: Format = "auto",
    json: Json = False,
) -> None:
    """Exactly which tokens of a row are learned: coloured on a terminal, between \u27e6 and \u27e7 elsewhere."""
    from rich.console import Console

    from luthier.data.show import chosen, print_row, shown

    data = _spec(format=format, learn=learn)
    renderer, _ = _model(model)
    found = [(example, shown(example, renderer, learn=data.learn)) for example in chosen(file, format=data.format, rows=rows, row=row)]
    content = [{"file": e.source.file, "row": e.source.row, "paths": [path.to_json() for path in paths]} for e, paths in found]

    def show() -> None:
        console = Console(highlight=False, markup=False)
        for note in renderer.notes:
            console.print(f"note: {note}", soft_wrap=True)
        for example, paths in found:
            print_row(example, paths, console)

    answer({"rows": content, "notes": renderer.notes}, json=json, show=show)


@app.command("split")
def split_file(
    file: File,
    share: Annotated[float, typer.Option(help="Share of the rows to hold out, 0 to 0.5.")] = 0.1,
    group: Group = "",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Another seed gives another split.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the two files; left out, beside FILE.")] = None,
    format: Format = "auto",
    json: Json = False,
) -> None:
    """Write FILE.train.jsonl and FILE.heldout.jsonl; a row's side follows from what it says."""
    from luthier.data.split import plan_split, write_split

    data = _spec(format=format, group=group, valid=share)
    stem = (out or file.parent) / _stem(file)
    train, heldout = Path(f"{stem}.train.jsonl"), Path(f"{stem}.heldout.jsonl")
    _free(train, heldout)
    with _progress("split", str(file)) as hear:
        split = plan_split(file, data=data, seed=seed, on_progress=hear)
        _both_sides(file, split, share)
        write_split(file, split, train=train, valid=heldout, data=data)
    content = {
        "train": str(train),
        "heldout": str(heldout),
        "train_rows": len(split.train),
        "heldout_rows": len(split.valid),
        "reason": split.reason,
    }
    told = f"{split.reason}\n{train}  {len(split.train):,} rows\n{heldout}  {len(split.valid):,} rows\n"
    answer(content, json=json, show=lambda: print(told, end=""))


def _spec(**values: Any) -> DataSpec:
    from luthier.core.spec import DataSpec, checked

    return checked(DataSpec, values, path="data")


def _free(*files: Path) -> None:
    """Nothing is ever written over: the file may be one somebody made by hand."""
    for file in files:
        if file.exists():
            raise SpecError("This file exists.", where=str(file), remedy="Move it away, or choose another --out.", code="out_exists")


def _both_sides(file: Path, split: Split, share: float) -> None:
    if share > 0 and not split.valid:
        what = f"Nothing would be held out of {len(split.train)} rows."
        raise DataError(what, where=str(file), remedy="Add examples; it takes at least 10.", code="too_few_rows")


def _stem(file: Path) -> str:
    name = file.name[:-3] if file.name.lower().endswith(".gz") else file.name
    return Path(name).stem


def _model(name: str) -> tuple[Any, int]:
    """The model's renderer and context, without its weights."""
    from luthier.data.render import Renderer
    from luthier.models.config import read_config
    from luthier.models.families import family_of
    from luthier.models.find import find

    folder = find(name)
    config = read_config(folder)
    return Renderer.from_folder(folder), family_of(config.model_type).context(config)


@contextmanager
def _progress(stage: str, file: str) -> Iterator[OnBytes]:
    with screen() as listen:
        listen(Stage(stage, file))
        yield lambda done, total: listen(Progress(stage, done, total, "bytes"))


def _show(report: Report) -> None:
    """The report for people: what it was taken for, problems by kind, and the sentence that counts."""
    known = report.recognition
    sys.stdout.write(f"{report.file}: {known.format} ({known.confidence:.0%} sure). {known.reason}\n")
    if report.counts:
        table(("", "problem", "rows", "where", "first", "what to do"), [_line(report, code) for code in _worst_first(report)])
    for note in report.notes:
        sys.stdout.write(f"note: {note}\n")
    verdict = "passes" if report.ok else "does not pass"
    sys.stdout.write(f"{report.rows:,} rows, {report.errors:,} errors, {report.warnings:,} warnings: the file {verdict}.\n")


def _worst_first(report: Report) -> list[str]:
    return sorted(report.counts, key=lambda code: (report.severities[code], -report.counts[code]))


def _row(problem: Problem, report: Report) -> str:
    """Where it is; rows of the held-out file are told with its name."""
    return str(problem.row) if problem.file == report.file else f"{Path(problem.file).name} {problem.row}"


def _line(report: Report, code: str) -> tuple[str, ...]:
    found = [problem for problem in report.problems if problem.code == code]
    rows = [_row(problem, report) for problem in found[:4] if problem.row]
    where = ", ".join(rows) + (" ..." if report.counts[code] > len(rows) > 0 else "")
    field = f"{found[0].field}: " if found[0].field else ""
    return report.severities[code], code, f"{report.counts[code]:,}", where, field + found[0].message, found[0].remedy
