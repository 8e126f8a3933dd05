"""A base that stays in memory and answers, with its adapters: loaded when first asked for, let go when others need the room.

asked, adapter not here ---> loader's thread: loaded and proven on a twin ---> hung in between two steps ---> its rows enter
                             (refused: whoever asked for it hears why)
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from torch import Tensor, nn

from luthier.core.errors import ResultError
from luthier.core.files import fingerprint
from luthier.inference.serving.ask import Answering, Asked, ours
from luthier.inference.serving.batch import Batch
from luthier.inference.serving.batcher import Batcher, closing
from luthier.inference.serving.crowd import Crowd
from luthier.inference.serving.room import MOST_ROWS, Room
from luthier.inference.serving.rows import Row, mean_state
from luthier.inference.serving.understand import Understanding
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.pool import Pool, token_bytes

Deltas = dict[str, nn.Module]


@dataclass(frozen=True)
class Adapter:
    """Who shall answer.

    Attributes:
        name: its id. load: called with a twin of the base, in the loader's thread; hangs the adapter in there under `name`, proves that it
            answers as it should, and returns its deltas. What it raises is what everybody hears who asked for it.
        pinned: it is never let go.
    """

    name: str
    load: Callable[[Model], Deltas]
    pinned: bool = False


class Resident:
    """One base, its adapters, and the engine that steps for all of them. Safe for many threads.

    Args:
        cache_bytes: memory for keys and values. adapter_bytes: for adapters; those being asked stay even beyond it, and others wait.

    Attributes:
        kept: it is pinned as a whole.
    """

    def __init__(self, model: Model, *, cache_bytes: int, adapter_bytes: int, most_rows: int = MOST_ROWS) -> None:
        self.model, self.adapter_bytes = model, adapter_bytes
        self.crowd = Crowd(model)  # first: it refuses what is not served
        places = max(1, cache_bytes // token_bytes(model.config, model.dtype))
        self._twin = self.crowd.twin()
        self.room = Room(Pool.of(model.config, places, dtype=model.dtype, device=model.device), most_rows, whole=not self.crowd.writes)
        self.understanding = Understanding(model, places=places)
        self.batcher = Batcher(Batch(self.room, self.crowd, self.understanding.pieces), name=f"engine {model.name}")
        self.fingerprint = "fp_" + fingerprint([model.name, str(model.dtype), model.packing, model.renderer.fingerprint])[:12]
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._change = threading.Condition(threading.RLock())
        self._waiting: dict[str, list[list[Row]]] = {}  # rows by the adapter that is being loaded for them
        self._asked: Counter[str | None] = Counter()  # questions under way, by adapter
        self._closed = False
        self.kept = False

    @property
    def pinned(self) -> bool:
        """Whether it stays, because it is kept for itself or for an adapter."""
        return self.kept or any(member.pinned for member in list(self.crowd.members.values()))

    @property
    def bytes(self) -> int:
        """Memory of the base, its laid-out copy and its adapters."""
        weights = sum(p.nbytes for p in self.model.network.parameters())
        return weights * (2 if self.crowd.reader is not None and self.crowd.reader.packed else 1)

    @property
    def busy(self) -> bool:
        """Somebody waits for an answer."""
        return self._asked.total() > 0

    def ask(self, asked: Asked, answering: Answering, adapter: Adapter | None = None) -> Answering:
        """Answer `asked` through `answering`.

        Raises:
            SpecError, DataError: it cannot be answered as it is asked. ResultError: the service is closing.
        """
        rows = self.understanding.writing(asked, answering, adapter.name if adapter else None)
        self._enter(rows, adapter)
        return answering

    def embed(self, prompts: list[list[int]], answering: Answering, adapter: Adapter | None = None, *, key: str = "") -> list[Tensor]:
        """Mean last state of each prompt, of unit length, float32 ``[D]``; blocks.

        Raises:
            DataError: a prompt is empty or too long. LuthierError: reading failed.
        """
        rows = self.understanding.reading(prompts, answering, adapter.name if adapter else None, key=key)
        self._enter(rows, adapter)
        list(answering)
        return [mean_state(row) for row in rows]

    def forget(self, name: str) -> bool:
        """Let go of an adapter, unless somebody is being answered by it; returns whether it is gone."""
        return self.batcher.between(lambda: self._let_go(name)).result()

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take nothing more; answers under way may end for so many seconds."""
        with self._change:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
            self._change.notify_all()
        for rows in (rows for several in waiting.values() for rows in several):
            rows[0].question.answering.say(closing())
        self.batcher.close(grace_seconds)
        self._loader.shutdown()

    def _enter(self, rows: list[Row], adapter: Adapter | None) -> None:
        answering, name = rows[0].question.answering, adapter.name if adapter else None
        answering.fingerprint = self.fingerprint
        with self._change:
            if self._closed:
                raise closing()
            self._asked[name] += 1
            answering.on_over(lambda: self._over(name))
            if adapter is None or adapter.name in self.crowd.members:
                if adapter is not None:
                    self.crowd.touch(adapter.name, pinned=adapter.pinned)
                self.batcher.ask(rows)
                return
            answering.on_cancel(lambda: answering.say(None))
            self._waiting.setdefault(adapter.name, []).append(rows)
            if len(self._waiting[adapter.name]) == 1:
                self._loader.submit(self._load, adapter)

    def _over(self, name: str | None) -> None:
        with self._change:
            self._asked[name] -= 1
            self._asked += Counter()  # forget those at zero
            self._change.notify_all()

    def _load(self, adapter: Adapter) -> None:
        """In the loader's thread."""
        try:
            twin = replace(self._twin)  # an adapter may say that it leaves less context
            try:
                deltas = adapter.load(twin)
            finally:
                slot.restore(twin.network)
            self._hung(adapter, deltas)
        except BaseException as error:
            with self._change:
                refused = self._waiting.pop(adapter.name, [])
            for rows in refused:
                rows[0].question.answering.say(ours(error))

    def _hung(self, adapter: Adapter, deltas: Deltas) -> None:
        """Wait until there is room for it, hang it in, and let those enter who waited for it."""
        while True:
            with self._change:
                if self._closed:
                    return
                seen = dict(self._asked)
            if self.batcher.between(lambda: self._hang(adapter, deltas)).result():
                return
            with self._change:
                self._change.wait_for(lambda seen=seen: self._closed or dict(self._asked) != seen)  # type: ignore[misc]

    def _hang(self, adapter: Adapter, deltas: Deltas) -> bool:
        """In the engine's thread, between two steps."""
        size = sum(tensor.nbytes for delta in deltas.values() for tensor in (*delta.parameters(), *delta.buffers()))
        with self._change:
            while self.crowd.members and self.crowd.bytes + size > self.adapter_bytes:
                oldest = self.crowd.oldest([name for name in self._asked if name])
                if oldest is None:
                    if all(member.pinned for member in self.crowd.members.values()):  # none of them ever leaves
                        what, remedy = "Pinned models take all the memory for tuned ones.", "Unpin one, or allow more (adapter_bytes)."
                        raise ResultError(what, remedy=remedy, code="models_full")
                    return False
                self._let_go(oldest)
            self.crowd.hang(adapter.name, deltas, pinned=adapter.pinned)
            for rows in self._waiting.get(adapter.name, []):
                self.batcher.ask(rows)
            self._waiting.pop(adapter.name, None)
        return True

    def _let_go(self, name: str) -> bool:
        """In the engine's thread, between two steps."""
        with self._change:
            if self._asked[name]:
                return False
            if name in self.crowd.members:
                self.room.known.forget(name)
                self.crowd.dismiss(name)
            return True
