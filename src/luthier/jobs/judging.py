"""From trained weights to proof: compare with the base, certify, tell. Each part is skipped when its file is already there."""

from __future__ import annotations

from itertools import islice

from luthier.core.events import Listener, Note, Progress, Stage
from luthier.core.files import write_text
from luthier.data.overlap import near_learned
from luthier.evaluation import certificate
from luthier.evaluation.report import report
from luthier.jobs import capsule, heads
from luthier.jobs.card import card
from luthier.jobs.prepare import learned_rows
from luthier.jobs.result import Run
from luthier.jobs.training import Training

PROBES = 20
"""Prompts whose answers are certified: enough to meet every kind of row, replayed in a second or two."""


def compare(training: Training, *, listen: Listener) -> None:
    """Base and tuned on the same held-out rows; the verdict is told."""
    listen(Stage("evaluate", f"base and tuned on {len(training.data.held_out)} held-out rows"))
    found = heads.judge(training.spec)(
        training.model,
        training.method,
        training.data.held_out,
        heads.laid(training.spec, training.data.valid, training.model.renderer),
        spec=training.spec.evaluate,
        notes=_reservations(training),
        folder=training.folder.path,
        on_progress=lambda done, total: listen(Progress("evaluate", done, total)),
    )
    listen(Note(found.verdict.sentence, level="verdict"))


def _reservations(training: Training) -> list[str]:
    """What a reader must know about these held-out rows before believing the verdict."""
    held_out, notes = training.data.held_out, []
    if _looks(training) > 1:
        notes.append(
            "The same held-out rows chose the step whose weights were kept (lowest of several held-out losses), which can flatter tuned a "
            "little; `luthier evaluate RUN --data FILE` compares on rows that decided nothing."
        )
    near = near_learned(learned_rows(training.spec, training.data.split), held_out)
    if near:
        told = ", ".join(f"{held} is nearly {learned}" for held, learned in near[:3])
        notes.append(
            f"{len(near)} of {len(held_out)} held-out rows are nearly, or wholly, like a learned row, which flatters tuned: {told}."
        )
    return notes


def _looks(training: Training) -> int:
    steps = training.folder.steps
    return steps.read_text(encoding="utf-8").count('"kind": "validated"') if steps.is_file() else 0


def certify(training: Training, *, listen: Listener) -> None:
    """Probes with the answers the model gives now; replayed whenever it is loaded."""
    listen(Stage("certify"))
    held_out = training.data.held_out
    probes = held_out or learned_rows(training.spec, training.data.split)  # a run without held-out rows is certified, too
    rows = heads.laid(training.spec, training.data.valid if held_out else training.data.rows, training.model.renderer)
    first = (rows[i] for i in range(min(len(rows), PROBES)))
    certificate.write(training.model, training.method, list(islice(probes, PROBES)), training.folder.path, rows=first)


def tell(training: Training, *, listen: Listener) -> None:
    """The card and the report."""
    listen(Stage("report"))
    folder = training.folder
    summary, sealed = Run(folder).summary, capsule.read(folder)
    text = card(training.spec, summary=summary, capsule=sealed, rows=len(training.data.rows), held_out=len(training.data.held_out))
    write_text(folder.card, text)
    report(training.folder.path)
