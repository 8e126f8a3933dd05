"""Bases in memory: loaded when first asked for, let go when others need the room and nobody asks them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch

from luthier.core.errors import ResultError
from luthier.inference.serving.batcher import closing
from luthier.inference.serving.resident import Resident
from luthier.inference.serving.room import MOST_ROWS
from luthier.models.catalog import catalog
from luthier.models.find import local_models
from luthier.models.machine import memory
from luthier.models.model import Model

SHARE_OF_CACHE, SHARE_OF_ADAPTERS, SHARE_OF_MODELS = 1 / 8, 1 / 8, 1 / 2
"""Of the machine's memory (of the accelerator's free memory, where there is one), unless the settings say otherwise. Keys and values are
for each base; a quarter is left for arithmetic and for whatever else runs here."""


@dataclass(frozen=True)
class Bounds:
    """How much may be in memory. 0 means: derive it.

    Attributes:
        cache_bytes: keys and values, of each base. adapter_bytes: adapters of each base. model_bytes: all bases together.
        most_rows: answers written at once, of each base.
    """

    cache_bytes: int = 0
    adapter_bytes: int = 0
    model_bytes: int = 0
    most_rows: int = 0

    @classmethod
    def of(cls, settings: object) -> Bounds:
        """Those the settings of the service name, the rest derived from this machine."""
        said = {name: int(getattr(settings, name, 0)) for name in cls.__dataclass_fields__}
        total = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else memory()[0]
        derived = {
            "cache_bytes": int(total * SHARE_OF_CACHE),
            "adapter_bytes": int(total * SHARE_OF_ADAPTERS),
            "model_bytes": int(total * SHARE_OF_MODELS),
            "most_rows": MOST_ROWS,
        }
        return cls(**{name: said[name] or derived[name] for name in said})


def known_bases() -> dict[str, str]:
    """Ids of the bases that lie on this machine, and the name each is found by. Nothing else may be asked for: an id is never a path."""
    local = dict(local_models())
    entries = catalog().values()
    named = {entry.name: entry.name for entry in entries if entry.bundled or entry.repo in local}
    repos = {entry.repo for entry in entries}
    return named | {name: name for name in local if name not in repos}


class Bases:
    """Residents by a key of the caller's. Safe for many threads.

    Args:
        bounds: see there.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._found: OrderedDict[str, Future[Resident]] = OrderedDict()
        self._change = threading.Lock()
        self._closed = False

    def get(self, key: str, load: Callable[[], Model], *, bytes: int, pinned: bool = False) -> Resident:
        """The resident called `key`; `load` makes its model, once, while everybody who wants it waits.

        Args:
            bytes: what it will take, about. pinned: it is not let go for others from now on.

        Raises:
            ResultError: the memory is full of models that are being asked (``models_full``), or the service is closing.
            Whatever `load` raises; the next one to ask tries again.
        """
        with self._change:
            if self._closed:
                raise closing()
            found = self._found.get(key)
            if found is None:
                self._make_room(bytes)
                mine = self._found[key] = Future[Resident]()
            else:
                self._found.move_to_end(key)
        if found is not None:
            resident = found.result()
            resident.kept = pinned
            return resident
        try:
            b = self.bounds
            resident = Resident(load(), cache_bytes=b.cache_bytes, adapter_bytes=b.adapter_bytes, most_rows=b.most_rows)
        except BaseException as error:
            with self._change:
                del self._found[key]
            mine.set_exception(error)
            raise
        resident.kept = pinned
        mine.set_result(resident)
        return resident

    def __iter__(self) -> Iterator[tuple[str, Resident]]:
        """Those that are ready."""
        with self._change:
            ready = [(key, future) for key, future in self._found.items() if future.done()]
        return ((key, future.result()) for key, future in ready if future.exception() is None)

    def drop(self, key: str) -> bool:
        """Let go of a base, unless somebody is being answered by it; returns whether it is gone."""
        with self._change:
            future = self._found.get(key)
            if future is None:
                return True
            if not future.done() or future.exception() is not None or future.result().busy:
                return False
            del self._found[key]
        future.result().close()
        return True

    def close(self, grace_seconds: float = 0.0) -> None:
        """Everybody stops; answers under way may end for so many seconds, all together."""
        with self._change:
            self._closed = True
        end = time.monotonic() + grace_seconds
        for _, resident in self:
            resident.close(max(0.0, end - time.monotonic()))

    def _make_room(self, bytes: int) -> None:
        """Let go of who was not asked for longest, until `bytes` more fit. The lock is held."""
        ready = [(key, future.result()) for key, future in self._found.items() if future.done() and future.exception() is None]
        total = sum(resident.bytes for _, resident in ready)
        for key, resident in ready:
            if total + bytes <= self.bounds.model_bytes:
                return
            if not (resident.busy or resident.pinned):
                del self._found[key]
                total -= resident.bytes
                resident.close()
        if total and total + bytes > self.bounds.model_bytes:
            here, more = f"{total / 1e9:.1f} GB", f"{bytes / 1e9:.1f} GB"
            what = f"Models in memory take {here}, all of them are pinned or being asked, and this one needs {more} more."
            raise ResultError(what, remedy="Ask again in a while, or allow the service more memory (model_bytes).", code="models_full")


def bytes_of(folder: Path) -> int:
    """What a model in `folder` will take: its weights, and once more where they are laid out for the CPU."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return weights * (1 if torch.cuda.is_available() else 2)
