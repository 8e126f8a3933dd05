"""Where rows of the database become models that answer. `Host` is all that the server knows of models; the work is done by an engine:
the one in this process (`here.Here`), or another one by its URL (`there.There`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from luthier.core.errors import SpecError
from luthier.inference.serving.ask import Answering, Asked
from luthier.jobs.elsewhere import Elsewhere
from luthier.jobs.here import Here
from luthier.jobs.offers import Offer, offer_of, row_of, rows
from luthier.jobs.there import There
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables.models import TunedModel

__all__ = ["Host", "Offer"]

Input = str | list[int]


class Engine(Protocol):
    """Who computes. `row` is the tuned model that is asked; None where a base is, whose name is among `names`."""

    def names(self) -> set[str]: ...

    def ask(self, asked: Asked, row: TunedModel | None) -> Answering: ...

    def embed(self, model: str, inputs: Sequence[Input], row: TunedModel | None, *, key: str) -> tuple[list[list[float]], int]: ...

    def loaded(self) -> set[str]: ...

    def forget(self, id: str) -> bool: ...

    def figures(self) -> dict[str, dict[str, float]]: ...

    def close(self, grace_seconds: float) -> None: ...


class Host:
    """Everybody who can be asked. Safe for many threads.

    Args:
        settings: of the service. ``backend``: ``here``, or ``openai:URL`` of another engine, with ``backend_key``; for the others that
            matter see `bases.Bounds`.
    """

    def __init__(self, database: Database, blobs: Blobs | None, settings: object) -> None:
        self.database, self.blobs = database, blobs
        self.engine: Engine = _engine(database, settings)
        self._begun = time.time()

    def ask(self, asked: Asked, project_id: str) -> Answering:
        """Answer a request. The first one to ask a base waits until it is loaded, which takes seconds: never call it from an event loop.
        An adapter is loaded meanwhile; that it is refused is heard from the answer.

        Raises:
            NotFound: no such model in this project. SpecError, DataError: it cannot be answered as it is asked.
            ResultError: no room for another model, or the service is closing. ModelError, StorageError: the model does not load.
        """
        asked.check()
        return self.engine.ask(asked, self._row(asked.model, project_id))

    def embed(self, model: str, inputs: Sequence[Input], project_id: str, *, key: str = "") -> tuple[list[list[float]], int]:
        """A vector of unit length for each input, and the tokens read: the mean of the model's last states. Blocks.

        Raises:
            As `ask`, and what a refused adapter says.
        """
        return self.engine.embed(model, inputs, self._row(model, project_id), key=key)

    def models(self, project_id: str) -> list[Offer]:
        """All that can be asked in a project: bases, then its own tuned models, oldest first."""
        loaded = self.engine.loaded()
        with self.database.read() as session:
            tuned = rows(session, project_id)
        return [self._base(id, loaded) for id in sorted(self._bases())] + [offer_of(row, loaded) for row in tuned]

    def model(self, id: str, project_id: str) -> Offer:
        """One of `models`.

        Raises:
            NotFound: there is none of this id in the project.
        """
        row, loaded = self._row(id, project_id), self.engine.loaded()
        return self._base(id, loaded) if row is None else offer_of(row, loaded)

    def forget(self, id: str) -> bool:
        """A tuned model goes: let go of it in memory. False while somebody is being answered by it; later asks find no row any more."""
        return self.engine.forget(id)

    def figures(self) -> dict[str, dict[str, float]]:
        """What goes on in each base now, for metrics: rows inside and waiting, tokens read, reused and written, places, adapters."""
        return self.engine.figures()

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more questions; answers under way may end for so many seconds."""
        self.engine.close(grace_seconds)

    def _row(self, id: str, project_id: str) -> TunedModel | None:
        """The tuned model of this id, or None where it is a base. Tuned ids are never looked for among bases."""
        if not is_tuned(id) and id in self.engine.names():
            return None
        with self.database.read() as session:
            return row_of(session, id, project_id)

    def _bases(self) -> list[str]:
        return [id for id in self.engine.names() if not is_tuned(id)]

    def _base(self, id: str, loaded: set[str]) -> Offer:
        return Offer(id, "luthier", self._begun, loaded=id in loaded)


def is_tuned(id: str) -> bool:
    """Whether an id is one that a job gave: on another engine those of all projects stand beside its own."""
    return id.startswith("ft:")


def _engine(database: Database, settings: object) -> Engine:
    backend = str(getattr(settings, "backend", "here"))
    if backend == "here":
        return Here(database, settings)
    kind, _, url = backend.partition(":")
    if kind != "openai" or not url.startswith(("http://", "https://")):
        what = f"backend = {backend!r} is no engine."
        raise SpecError(what, where="backend", remedy="Choose here, or openai:http://HOST:PORT/v1.", code="bad_value")
    return There(database, Elsewhere(url, key=str(getattr(settings, "backend_key", ""))))
