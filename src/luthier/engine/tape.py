"""What a piece of work asks of memory: every tensor's storage is counted from the operation that makes it to its release.

Sees what torch's operators hand out, in forward and backward alike, whatever the network is made of; not what an operator takes for itself
while it runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """While it is entered: bytes alive now, and the most there were in each phase.

    Attributes:
        live: bytes of storages made under the tape and not released yet.
        peaks: most bytes alive during each phase, by its name, in order.
        begins: bytes alive when each phase began.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.phase = 0, ""
        self.peaks: dict[str, int] = {}
        self.begins: dict[str, int] = {}
        self._known: dict[int, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the phases so far."""
        self.peaks.clear()
        self.begins.clear()
        self.enter("begin")

    def enter(self, phase: str) -> None:
        """From now on it is `phase`."""
        self.phase = phase
        self.begins.setdefault(phase, self.live)
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id_ for leaf in tree_leaves((args, kwargs)) if (id_ := _storage_of(leaf)) is not None}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            id_ = _storage_of(leaf)
            if id_ is not None and id_ not in given and id_ not in self._known:
                storage = leaf.untyped_storage()
                self.live += storage.nbytes()
                self._known[id_] = weakref.ref(storage, self._released(id_, storage.nbytes()))
        self.peaks[self.phase] = max(self.peaks[self.phase], self.live)
        return out

    def _released(self, id_: int, size: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            self.live -= size
            del self._known[id_]

        return forget


def _storage_of(leaf: Any) -> int | None:
    return leaf.untyped_storage()._cdata if isinstance(leaf, torch.Tensor) else None
