"""Runs on disk: a folder of standard files that outlives the program that wrote it.

20261121-101500-tickets-lora-3f9a/
  spec.yaml            everything that decided the run, complete and re-runnable
  capsule.json         hashes of data and weights, seeds, versions, machine
  data.json            the check report                 split.json     which rows were held out
  ledger.parquet       what each row taught             steps.jsonl    every step and every look at the held-out loss
  notes.json           every choice made for the user, and why: derived numbers, adaptations, warnings
  checkpoints/         step-000120/ ...                 adapter/ or model/   the result (PEFT or Hugging Face layout)
  passes/              step-000080/ ...: adapters after the last passes over the rows
  certificate.json     probes, replayed at every load   evaluation/    items.jsonl, summary.json
  report.html card.md  for people                       state.json     how far the run has come
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import LuthierError, NotFound, SpecError, StorageError, did_you_mean
from luthier.core.files import storing, write_json
from luthier.core.home import runs_folder
from luthier.store.holding import LOCK

State = Literal["created", "running", "succeeded", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, by name. Nothing is read or made by asking for a path."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def name(self) -> str:
        """How the user names it: its id when it lies among the user's runs, else its path."""
        return self.id if self.path.parent == runs_folder().resolve() else str(self.path)

    @property
    def spec(self) -> Path:
        """Everything that decided the run."""
        return self.path / "spec.yaml"

    @property
    def capsule(self) -> Path:
        """Hashes, seeds, versions."""
        return self.path / "capsule.json"

    @property
    def data(self) -> Path:
        """The check report."""
        return self.path / "data.json"

    @property
    def split(self) -> Path:
        """Which rows were held out."""
        return self.path / "split.json"

    @property
    def ledger(self) -> Path:
        """What each row taught."""
        return self.path / "ledger.parquet"

    @property
    def steps(self) -> Path:
        """Every step, one JSON object a line."""
        return self.path / "steps.jsonl"

    @property
    def notes(self) -> Path:
        """What the run told its user: ``[{"level", "text"}]``, in order."""
        return self.path / "notes.json"

    @property
    def checkpoints(self) -> Path:
        """Folders `step-000120`."""
        return self.path / "checkpoints"

    @property
    def passes(self) -> Path:
        """Folders `step-000080`: what an adapter had learned after each of the last passes over the rows."""
        return self.path / "passes"

    def kept_passes(self) -> list[int]:
        """Steps whose weights lie in `passes`, in order."""
        return sorted(int(part.name.removeprefix("step-")) for part in self.passes.glob("step-*"))

    @property
    def certificate(self) -> Path:
        """Probes replayed at every load."""
        return self.path / "certificate.json"

    @property
    def evaluation(self) -> Path:
        """`items.jsonl` and `summary.json`."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.path / "card.md"

    @property
    def weights(self) -> Path:
        """What was trained: `adapter/` when the method saved one, else `model/`."""
        adapter = self.path / "adapter"
        return adapter if adapter.is_dir() else self.path / "model"

    @property
    def complete(self) -> bool:
        """Every result is there: weights, comparison, certificate, report."""
        results = (self.evaluation / "summary.json", self.certificate, self.report)
        return self.weights.is_dir() and all(file.is_file() for file in results)

    def state(self) -> dict[str, Any]:
        """The content of ``state.json``: `state`, `stage` (the latest begun), `error`, `created`, `changed` (UTC).

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(
                "The state of this run cannot be read.", where=str(self.path), remedy="Is it the folder of a run?"
            ) from error
        return content

    def mark(self, state: State, *, stage: str = "", **facts: Any) -> None:
        """Write ``state.json`` atomically; what is not given is kept."""
        old = self.state() if (self.path / "state.json").exists() else {}
        write_json(self.path / "state.json", {**old, "state": state, "stage": stage or old.get("stage", ""), "changed": _now(), **facts})

    def note(self, level: str, text: str) -> None:
        """Keep what was told, once: a resumed run says some things again."""
        told = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.is_file() else []
        new = {"level": level, "text": text}
        if new not in told:
            write_json(self.notes, [*told, new])

    def last_checkpoint(self) -> Path | None:
        """The checkpoint with the highest step; half-written ones have other names and are not seen."""
        if not self.checkpoints.is_dir():
            return None
        whole = [p for p in self.checkpoints.iterdir() if re.fullmatch(r"step-\d+", p.name)]
        return max(whole, key=lambda p: int(p.name.removeprefix("step-")), default=None)


def create(*, out: Path | None, stem: str, method: str) -> RunFolder:
    """A new, empty run folder: `out` itself, or one with a unique id among the user's runs.

    Raises:
        SpecError: `out` exists and is not empty.
        StorageError: it cannot be made.
    """
    path = out if out is not None else runs_folder() / _new_id(stem, method)
    if out is not None:
        free(out)
    with storing(path):
        path.mkdir(parents=True, exist_ok=out is not None)
    folder = RunFolder(path.resolve())
    folder.mark("created", created=_now())
    return folder


def free(out: Path) -> None:
    """Make sure that `out` can be filled: nothing is ever written over.

    Raises:
        SpecError: it exists and is not an empty folder.
    """
    if out.exists() and not out.is_dir():
        raise SpecError("A file of this name exists.", where=str(out), remedy="Choose another --out.", code="out_exists")
    if out.exists() and any(path.name != LOCK for path in out.iterdir()):
        remedy = f"Choose another --out. If it is a run: `luthier tune --resume {out}` goes on with it."
        raise SpecError("The folder exists and is not empty.", where=str(out), remedy=remedy, code="out_exists")


def find(name: str) -> RunFolder:
    """The run called `name`: a path, an id, the beginning of an id, or ``last``.

    Raises:
        NotFound: no run, or several, begin like this.
    """
    path = Path(name).expanduser()
    if (path / "state.json").is_file():
        return RunFolder(path.resolve())
    if name not in ("last", "..") and Path(name).name == name and (runs_folder() / name / "state.json").is_file():
        return RunFolder(runs_folder() / name)  # as jobs ask for theirs: no other run is looked at
    ids = [run.id for run in listed()]
    if name == "last" and ids:
        return RunFolder(runs_folder() / ids[-1])
    matches = [i for i in ids if name and i.startswith(name)]
    if len(matches) == 1:
        return RunFolder(runs_folder() / matches[0])
    if matches:
        raise NotFound(
            f"{len(matches)} runs begin with {name!r}: {', '.join(matches[:5])}.", remedy="Say more of the id.", code="ambiguous_run"
        )
    remedy = did_you_mean(name, ids[-20:]) if ids else "There are no runs yet: `luthier tune FILE` or `luthier demo` makes one."
    raise NotFound(f"There is no run called {name!r}.", remedy=remedy, code="unknown_run")


def listed() -> Iterator[RunFolder]:
    """All runs under the user's home of Luthier, oldest first. Runs made with ``--out`` are found by their path."""
    if runs_folder().is_dir():
        yield from sorted((RunFolder(p) for p in runs_folder().iterdir() if (p / "state.json").is_file()), key=_age)


def _age(run: RunFolder) -> tuple[str, str]:
    """When it was made, then its id: those of jobs begin with no time. One that is damaged comes first, so that it is never the last."""
    try:
        return str(run.state().get("created", "")), run.id
    except LuthierError:
        return "", run.id


def read_json(path: Path) -> dict[str, Any]:
    """One of a run's JSON files; empty when it is not there (yet).

    Raises:
        StorageError: it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        remedy = "Delete it; `luthier tune --resume RUN` writes it again."
        raise StorageError(f"This file of the run is damaged: {error}.", where=str(path), remedy=remedy) from error
    return content


def _new_id(stem: str, method: str) -> str:
    """UTC time, file and method for people; four hex digits so that two runs of one second differ."""
    words = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40] or "data"
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{words}-{method}-{secrets.token_hex(2)}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
