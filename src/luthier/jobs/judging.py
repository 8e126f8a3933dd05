"""From trained weights to proof: compare with the base, certify, tell. Each part is skipped when its file is already there."""

from __future__ import annotations

from luthier.core.events import Listener, Note, Progress, Stage
from luthier.core.files import write_text
from luthier.evaluation import certificate
from luthier.evaluation.evaluate import evaluate
from luthier.evaluation.report import report
from luthier.jobs import capsule
from luthier.jobs.card import card
from luthier.jobs.result import Run
from luthier.jobs.training import Training

PROBES = 20
"""Prompts whose answers are certified: enough to meet every kind of row, replayed in a second or two."""


def compare(training: Training, *, listen: Listener) -> None:
    """Base and tuned on the same held-out rows; the verdict is told."""
    listen(Stage("evaluate", f"base and tuned on {len(training.data.held_out)} held-out rows"))
    found = evaluate(
        training.model,
        training.method,
        training.data.held_out,
        training.data.valid,
        spec=training.spec.evaluate,
        folder=training.folder.path,
        on_progress=lambda done, total: listen(Progress("evaluate", done, total)),
    )
    listen(Note(found.verdict.sentence, level="verdict"))


def certify(training: Training, *, listen: Listener) -> None:
    """Probes with the answers the model gives now; replayed whenever it is loaded."""
    listen(Stage("certify"))
    certificate.write(training.model, training.method, training.data.held_out[:PROBES], training.folder.path)


def tell(training: Training, *, listen: Listener) -> None:
    """The card and the report."""
    listen(Stage("report"))
    folder = training.folder
    summary, sealed = Run(folder).summary, capsule.read(folder)
    text = card(training.spec, summary=summary, capsule=sealed, rows=len(training.data.rows), held_out=len(training.data.held_out))
    write_text(folder.card, text)
    report(training.folder.path)
