"""The loop, watched: checkpoints, held-out loss, the best kept, stopping early. Everything a run needs that a step does not."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import StorageError
from luthier.core.events import Event, Note, Saved, Stepped, Validated
from luthier.core.files import storing, write_text
from luthier.engine import checkpoint
from luthier.engine.loop import fit
from luthier.engine.session import Session


@dataclass(slots=True)
class Watch:
    """A session with a folder.

    Attributes:
        folder: the run's folder; checkpoints, best weights and ``steps.jsonl`` go there.
        save_every, validate_every: steps between; 0 means only at the end.
        patience: stop after so many looks without a better held-out loss; 0 never stops early.
        token: fencing token written into checkpoints.
    """

    session: Session
    folder: Path
    save_every: int = 0
    validate_every: int = 0
    patience: int = 0
    token: int = 0
    progress: checkpoint.Progress | None = None

    def resume(self) -> Note | None:
        """Go on from the newest whole checkpoint, if there is one."""
        for candidate in checkpoint.newest(self.folder / "checkpoints"):
            loaded = checkpoint.load(candidate)
            if loaded.progress.token > self.token:
                what = "A newer worker has taken this run over."
                raise StorageError(what, where=str(candidate), remedy="Leave the run to it.", code="run_taken")
            session = self.session
            session.method.load_state(session.model, loaded.weights)
            session.optimiser.load_state(loaded.optimiser)
            session.step, self.progress = loaded.progress.step, loaded.progress
            self.progress.token = self.token
            self._forget_after(session.step)
            return Note(f"Resumed after step {session.step} of {session.steps}.", data={"step": session.step})
        self._forget_after(0)
        return None

    def run(self) -> Iterator[Event]:
        """Train to the end (or to early stopping), leaving the best weights in the model.

        Yields:
            Stepped, Validated and Saved as they happen. Closing the generator leaves the last checkpoint as it is;
            call `save` first to keep the present step.
        """
        session = self.session
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = self.progress or checkpoint.Progress(token=self.token)
        if not self._finished():
            for stepped in fit(session):
                self.progress.step = stepped.step
                self._record(stepped)
                yield stepped
                last = stepped.step == session.steps
                if self._due(self.validate_every, stepped.step) or last:
                    yield from self._look()
                stop = self._finished()
                if self._due(self.save_every, stepped.step) or last or stop:
                    yield self.save()
                if stop:
                    break
        yield from self._take_best()

    def save(self) -> Saved:
        """Write a checkpoint of this moment."""
        session = self.session
        assert self.progress is not None
        target = checkpoint.save(
            self.folder / "checkpoints",
            weights=session.method.state(session.model),
            optimiser=session.optimiser.state(),
            progress=self.progress,
        )
        return Saved(session.step, str(target))

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _finished(self) -> bool:
        progress = self.progress
        return progress is not None and self.patience > 0 and progress.looks_without_better >= self.patience

    def _look(self) -> Iterator[Event]:
        session, progress = self.session, self.progress
        assert progress is not None
        if not session.valid:
            return
        loss = session.validate()
        better = math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss)  # nothing is smaller than nan
        progress.looks.append((session.step, loss))
        progress.looks_without_better = 0 if better else progress.looks_without_better + 1
        if better:
            progress.best_loss, progress.best_step = loss, session.step
            checkpoint.save_weights(self.folder / "checkpoints" / "best", session.method.state(session.model))
        seen = Validated(session.step, loss, better)
        self._record(seen)
        yield seen

    def _take_best(self) -> Iterator[Event]:
        progress, session = self.progress, self.session
        if progress is None or progress.best_loss is None or progress.best_step == session.step:
            return
        session.method.load_state(session.model, checkpoint.load_weights(self.folder / "checkpoints" / "best"))
        yield Note(f"Kept the weights of step {progress.best_step}, the lowest held-out loss ({progress.best_loss:.4f}).")

    @property
    def _steps_file(self) -> Path:
        return self.folder / "steps.jsonl"

    def _record(self, event: Stepped | Validated) -> None:
        with storing(self._steps_file), open(self._steps_file, "a", encoding="utf-8") as sink:
            sink.write(json.dumps(event.to_json()) + "\n")
            sink.flush()
            os.fsync(sink.fileno()) if self._due(self.save_every, event.step) else None

    def _forget_after(self, step: int) -> None:
        """Drop recorded steps that will be taken again, and a line torn by a crash."""
        if not self._steps_file.exists():
            return
        kept = []
        for line in self._steps_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("step", math.inf) <= step:
                kept.append(line + "\n")
        write_text(self._steps_file, "".join(kept))
