"""A recall whose steps are all alike, so that a step can be recorded (`models/replay.py`): what changes is a number on the device.

    column   0 1 2 3 4 5 6 7         every row sees all columns up to `seen`; those that are not written yet are hidden
             . a a x y - - -         `column_1`: where the next token is written
             b b b x y - - -

B rows, W columns seen, S tokens all rows begin with, K key-value heads, D width of a head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.recall import Recall
from luthier.models.sight import Memory

CHUNK = 256
"""Columns by which `seen` grows: each time the step has to be recorded anew, and until then all of them are looked at."""


class Steady(Recall):
    """See `Recall`."""

    def __init__(self, memories: list[Memory], paths: list[NDArray[np.int64]], *, room: int) -> None:
        super().__init__(memories, paths, room=room)
        self.column_1 = torch.tensor([self.width], device=self.device)
        self.room = self.width + room
        for own in self.own:
            own.values[:, :, self.width :].zero_()  # what is hidden is multiplied by zero: it must be a number

    @property
    def seen(self) -> int:
        """Columns looked at: all that are written, the next, and some more."""
        return min(self.room, -(-(self.width + 1) // CHUNK) * CHUNK)

    def advance(self) -> None:
        """The next column."""
        super().advance()
        self.column_1 += 1

    def _write(self, k_KBD: Tensor, v_KBD: Tensor) -> Memory:
        own = self.own[self.layer]
        own.keys.index_copy_(3, self.column_1, k_KBD.transpose(0, 1)[..., None])
        own.values.index_copy_(2, self.column_1, v_KBD.transpose(0, 1)[:, :, None])
        return Memory(own.keys[..., : self.seen], own.values[:, :, : self.seen])

    def _out_of_sight(self, common: int, window: int | None) -> Tensor:
        if window not in self._hidden:
            column_W = torch.arange(self.seen, device=self.device)
            depth_BW = column_W - self.pads_B[:, None]
            shared_BS = torch.arange(common, device=self.device).expand(len(depth_BW), -1)
            hidden = torch.cat([shared_BS < 0, (depth_BW < 0) | (column_W > self.column_1)], dim=1)
            if window is not None:
                place = torch.cat([shared_BS, depth_BW + common], dim=1)
                now_B1 = self.column_1 - self.pads_B[:, None] + common
                hidden |= now_B1 - place >= window
            self._hidden[window] = hidden[:, None, None]
        found = self._hidden[window]
        assert found is not None
        return found
