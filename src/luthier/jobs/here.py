"""Models that answer in this process: rows of the database beside their bases, each held against its certificate before it may.

ft:luthier-mini:org:desk:x1 --> TunedModel row --> run folder --> adapter beside its base, or a whole model as a base of its own
                                                    `-- certificate, replayed before the first answer
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.evaluation import certificate
from luthier.inference.serving.ask import Answering, Asked
from luthier.inference.serving.resident import Adapter, Deltas, Resident
from luthier.jobs import specs
from luthier.jobs.bases import Bases, Bounds, bytes_of, known_bases
from luthier.jobs.offers import noted, weights
from luthier.models import slot
from luthier.models.find import find
from luthier.models.load import load, load_folder
from luthier.models.model import Model
from luthier.models.predictor import FOLDER as HEAD
from luthier.store.database import Database
from luthier.store.runs import RunFolder
from luthier.store.runs import find as find_run
from luthier.store.tables.models import TunedModel

LOOK_AGAIN = 3.0
"""Seconds after which a base that was put on this machine is seen."""


class Here:
    """An engine of `serving.Host`.

    Args:
        settings: `Bounds` says which of them matter.
    """

    def __init__(self, database: Database, settings: object) -> None:
        self.database, self.bases = database, Bases(Bounds.of(settings))
        self._runs: dict[str, tuple[RunFolder, Spec]] = {}
        self._known: tuple[float, dict[str, str]] = (-math.inf, {})

    def names(self) -> set[str]:
        """Bases that can be asked."""
        return set(self._names())

    def ask(self, asked: Asked, row: TunedModel | None) -> Answering:
        """See `serving.Host.ask`."""
        resident, adapter = self._who(asked.model, row)
        return resident.ask(asked, Answering(asked.model), adapter)

    def embed(self, model: str, inputs: Sequence[str | list[int]], row: TunedModel | None, *, key: str) -> tuple[list[list[float]], int]:
        """See `serving.Host.embed`."""
        resident, adapter = self._who(model, row)
        prompts = [resident.understanding.plain(text) for text in inputs]
        answering = Answering(model)
        vectors = resident.embed(prompts, answering, adapter, key=key)
        return [vector.tolist() for vector in vectors], answering.usage.prompt

    def loaded(self) -> set[str]:
        """Bases and tuned models in memory."""
        residents = list(self.bases)
        return {key for key, _ in residents} | {name for _, resident in residents for name in list(resident.crowd.members)}

    def forget(self, id: str) -> bool:
        """See `serving.Host.forget`."""
        self._runs.pop(id, None)
        whole = self.bases.drop(id)
        return all([resident.forget(id) for _, resident in self.bases]) and whole

    def figures(self) -> dict[str, dict[str, float]]:
        """See `serving.Host.figures`."""
        return {key: _figures(resident) for key, resident in self.bases}

    def close(self, grace_seconds: float) -> None:
        """See `serving.Host.close`."""
        self.bases.close(grace_seconds)

    def _who(self, id: str, row: TunedModel | None) -> tuple[Resident, Adapter | None]:
        if row is None:
            return self._base(self._names()[id], "auto", "auto"), None
        run, spec = self._run(row)
        if (weights(run, row) / HEAD).is_dir():
            what = f"{row.id} was tuned to predict, and writes no text."
            raise SpecError(what, where="model", remedy="Ask a model that was tuned on answers in words.", code="no_text")
        if "swap" not in specs.METHODS.load(row.method).Method.supports:
            folder = weights(run, row)
            return self.bases.get(id, lambda: self._whole(row, run, folder, spec), bytes=bytes_of(folder), pinned=row.pinned), None
        resident = self._base(spec.model.name, spec.model.dtype, spec.model.context)
        return resident, Adapter(id, lambda twin: self._adapter(twin, row, run), pinned=row.pinned)

    def _names(self) -> dict[str, str]:
        """`known_bases`, looked for anew every few seconds: many folders may have to be read."""
        if time.monotonic() > self._known[0] + LOOK_AGAIN:
            self._known = time.monotonic(), known_bases()
        return self._known[1]

    def _run(self, row: TunedModel) -> tuple[RunFolder, Spec]:
        """The run a model came out of; what decided it never changes, so it is read once."""
        if row.id not in self._runs:
            run = find_run(row.run)
            self._runs[row.id] = run, specs.load(run.spec)
        return self._runs[row.id]

    def _base(self, name: str, dtype: Any, context: Any) -> Resident:
        """Runs that were tuned in another number format, or with another context, answer on a base of their own."""
        key = name if (dtype, context) == ("auto", "auto") else f"{name} ({dtype}, {context})"
        return self.bases.get(key, lambda: load(name, dtype=dtype, context=context), bytes=bytes_of(find(name)))

    def _adapter(self, twin: Model, row: TunedModel, run: RunFolder) -> Deltas:
        """Hang the adapter into the twin and hold it against its certificate."""
        with noted(self.database, row):
            method = specs.METHODS.load(row.method).Method.load(twin, weights(run, row), name=row.id)
            if row.step is None:
                certificate.replay(twin, method, run.path)
            elif run.certificate.is_file():  # weights of an earlier pass have none of their own, and while the run goes on there is none
                certificate.replay_prompts(twin, method, run.path)
        return {path: delta for path, place in slot.slots(twin.network).items() if (delta := place.delta(row.id)) is not None}

    def _whole(self, row: TunedModel, run: RunFolder, folder: Path, spec: Spec) -> Model:
        """Load a model whose every weight was tuned, and hold it against its certificate."""
        with noted(self.database, row):
            model = load_folder(folder, name=row.id, dtype=spec.model.dtype, context=spec.model.context)
            certificate.replay(model, None, run.path)
        return model


def _figures(resident: Resident) -> dict[str, float]:
    room, crowd = resident.room, resident.crowd
    return {
        "rows": len(room.inside),
        "waiting": len(room.outside),
        "tokens_read": room.read,
        "tokens_reused": room.reused,
        "tokens_written": resident.batcher.batch.drawn,
        "places": room.pool.size,
        "places_used": room.pool.size - room.pool.free,
        "adapters": len(crowd.members),
        "adapter_bytes": crowd.bytes,
        "model_bytes": resident.bytes,
    }
