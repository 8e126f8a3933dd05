"""Where rows of the database become models that answer. `Host` is all that the server knows of models.

ft:luthier-mini:org:desk:x1 --> TunedModel row --> run folder --> adapter beside its base, or a whole model as a base of its own
                                                    `-- certificate, replayed before the first answer
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from luthier.core.errors import LuthierError, NotFound
from luthier.core.spec import Spec
from luthier.evaluation import certificate
from luthier.inference.serving.ask import Answering, Asked
from luthier.inference.serving.resident import Adapter, Deltas, Resident
from luthier.jobs import specs
from luthier.jobs.bases import Bases, Bounds, bytes_of, known_bases
from luthier.models import slot
from luthier.models.find import find
from luthier.models.load import load, load_folder
from luthier.models.model import Model
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.runs import RunFolder
from luthier.store.runs import find as find_run
from luthier.store.tables.jobs import CheckpointPermission
from luthier.store.tables.models import TunedModel

Input = str | list[int]


@dataclass(frozen=True)
class Offer:
    """A model that can be asked.

    Attributes:
        owner: ``luthier`` for a base, else the project it belongs to. created: seconds since 1970. base: what it was tuned from.
        loaded: it is in memory now.
    """

    id: str
    owner: str
    created: float
    base: str = ""
    method: str = ""
    step: int | None = None
    pinned: bool = False
    loaded: bool = False
    certificate: dict[str, Any] | None = None


class Host:
    """Everybody who can be asked. Safe for many threads.

    Args:
        settings: of the service; `Bounds` says which of them matter here. ``backend``: ``here``, or ``openai:URL`` of another engine.
    """

    def __init__(self, database: Database, blobs: Blobs | None, settings: object) -> None:
        self.database, self.blobs = database, blobs
        self.bases = Bases(Bounds.of(settings))
        self._begun = time.time()

    def ask(self, asked: Asked, project_id: str) -> Answering:
        """Answer a request. The first one to ask a base waits until it is loaded, which takes seconds: never call it from an event loop.
        An adapter is loaded meanwhile; that it is refused is heard from the answer.

        Raises:
            NotFound: no such model in this project. SpecError, DataError: it cannot be answered as it is asked.
            ResultError: no room for another model, or the service is closing. ModelError, StorageError: the model does not load.
        """
        asked.check()
        resident, adapter = self._who(asked.model, project_id)
        return resident.ask(asked, Answering(asked.model), adapter)

    def embed(self, model: str, inputs: Sequence[Input], project_id: str, *, key: str = "") -> tuple[list[list[float]], int]:
        """A vector of unit length for each input, and the tokens read: the mean of the model's last states. Blocks.

        Raises:
            As `ask`, and what a refused adapter says.
        """
        resident, adapter = self._who(model, project_id)
        prompts = [resident.understanding.plain(text) for text in inputs]
        answering = Answering(model)
        vectors = resident.embed(prompts, answering, adapter, key=key)
        return [vector.tolist() for vector in vectors], answering.usage.prompt

    def models(self, project_id: str) -> list[Offer]:
        """All that can be asked in a project: bases on this machine, then its own tuned models, oldest first."""
        loaded = self._loaded()
        with self.database.read() as session:
            rows = session.scalars(select(TunedModel).where(_seen(project_id)).order_by(TunedModel.n)).all()
        return [self._base_offer(id, loaded) for id in sorted(known_bases())] + [_offer(row, loaded) for row in rows]

    def model(self, id: str, project_id: str) -> Offer:
        """One of `models`.

        Raises:
            NotFound: there is none of this id in the project.
        """
        if id in known_bases():
            return self._base_offer(id, self._loaded())
        with self.database.read() as session:
            return _offer(_row(session, id, project_id), self._loaded())

    def forget(self, id: str) -> bool:
        """A tuned model goes: let go of it in memory. False while somebody is being answered by it; later asks find no row any more."""
        whole = self.bases.drop(id)
        return all([resident.forget(id) for _, resident in self.bases]) and whole

    def figures(self) -> dict[str, dict[str, float]]:
        """What goes on in each base now, for metrics: rows inside and waiting, tokens read, reused and written, places, adapters."""
        return {key: _figures(resident) for key, resident in self.bases}

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more questions; answers under way may end for so many seconds."""
        self.bases.close(grace_seconds)

    def _who(self, id: str, project_id: str) -> tuple[Resident, Adapter | None]:
        bases = known_bases()
        if id in bases:
            return self._base(bases[id], "auto", "auto"), None
        with self.database.read() as session:
            row = _row(session, id, project_id)
        run = find_run(row.run)
        spec = specs.load(run.spec)
        if "swap" not in specs.METHODS.load(row.method).Method.supports:
            folder = _inside(run, row)
            return self.bases.get(id, lambda: self._whole(row, run, folder, spec), bytes=bytes_of(folder)), None
        resident = self._base(spec.model.name, spec.model.dtype, spec.model.context)
        return resident, Adapter(id, lambda twin: self._adapter(twin, row, run), pinned=row.pinned)

    def _base(self, name: str, dtype: Any, context: Any) -> Resident:
        return self.bases.get(_base_key(name, dtype, context), lambda: load(name, dtype=dtype, context=context), bytes=bytes_of(find(name)))

    def _adapter(self, twin: Model, row: TunedModel, run: RunFolder) -> Deltas:
        """Hang the adapter into the twin and hold it against its certificate."""
        with self._noted(row):
            method = specs.METHODS.load(row.method).Method.load(twin, _inside(run, row), name=row.id)
            if row.step is None:
                certificate.replay(twin, method, run.path)
            elif run.certificate.is_file():  # weights of an earlier pass have none of their own, and while the run goes on there is none
                certificate.replay_prompts(twin, method, run.path)
        return {path: delta for path, place in slot.slots(twin.network).items() if (delta := place.delta(row.id)) is not None}

    def _whole(self, row: TunedModel, run: RunFolder, folder: Path, spec: Spec) -> Model:
        """Load a model whose every weight was tuned, and hold it against its certificate."""
        with self._noted(row):
            model = load_folder(folder, name=row.id, dtype=spec.model.dtype, context=spec.model.context)
            certificate.replay(model, None, run.path)
        return model

    @contextmanager
    def _noted(self, row: TunedModel) -> Iterator[None]:
        """Keep the outcome of a replay in the model's row: whether it held, when, and why not."""
        outcome: dict[str, Any] = {"held": True}
        try:
            yield
        except LuthierError as error:
            outcome = {"held": False, "error": error.to_json()}
            raise
        finally:
            with self.database.write() as session:
                kept = session.scalar(select(TunedModel).where(TunedModel.id == row.id))
                if kept is not None:
                    said = {key: value for key, value in (kept.certificate or {}).items() if key != "error"}
                    kept.certificate = {**said, **outcome, "replayed_at": int(time.time())}

    def _loaded(self) -> set[str]:
        """Keys of bases and ids of tuned models in memory."""
        residents = list(self.bases)
        return {key for key, _ in residents} | {name for _, resident in residents for name in list(resident.crowd.members)}

    def _base_offer(self, id: str, loaded: set[str]) -> Offer:
        return Offer(id, "luthier", self._begun, loaded=_base_key(id) in loaded)


def _base_key(name: str, dtype: Any = "auto", context: Any = "auto") -> str:
    """Runs that were tuned in another number format, or with another context, answer on a base of their own."""
    return name if (dtype, context) == ("auto", "auto") else f"{name} ({dtype}, {context})"


def _seen(project_id: str) -> Any:
    """A project sees its own models, and checkpoints that it was permitted to use."""
    permitted = select(CheckpointPermission.model_id).where(CheckpointPermission.project_id == project_id)
    return or_(TunedModel.project_id == project_id, TunedModel.id.in_(permitted))


def _row(session: Session, id: str, project_id: str) -> TunedModel:
    row = session.scalar(select(TunedModel).where(TunedModel.id == id, _seen(project_id)))
    if row is None:
        raise NotFound(
            f"There is no model {id!r} in this project.", where="model", remedy="The list of models shows all.", code="unknown_model"
        )
    return row


def _inside(run: RunFolder, row: TunedModel) -> Path:
    folder = run.path / row.folder
    if not folder.is_dir():
        what = f"The weights of {row.id} are not there any more."
        raise NotFound(what, where=str(folder), remedy="Restore the run's folder from a backup, or tune again.", code="weights_gone")
    return folder


def _offer(row: TunedModel, loaded: set[str]) -> Offer:
    here = row.id in loaded
    return Offer(row.id, row.project_id, row.created_at, row.base, row.method, row.step, row.pinned, here, row.certificate)


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
