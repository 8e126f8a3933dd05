"""What a block does between its matmuls, twice: in torch (``plain.py``), and compiled (``compiled.py``): the elementwise work
(``kernels.cpp``), and attention over all pieces of a pack at once (``attention.cpp``; bf16, where the processor multiplies pairs of it).

A C++ compiler on the machine is enough for the compiled ones: no headers, about two seconds, kept in ``LUTHIER_HOME/cache`` for every
later run. Without one the torch ones run. Both give the same numbers within rounding (``tests/models/test_kernels.py``); on two cores of
an AVX-512 machine the compiled ones take a quarter to a tenth of the time (docs/performance.md).

T tokens, D width of a state, F width of the MLP, H query heads, K key-value heads, W width of a head, n tokens of a piece, S tokens seen.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

OFF = "LUTHIER_NO_COMPILER"
"""Set this variable to run without the compiled kernels, e.g. to compare."""


@dataclass(slots=True, frozen=True)
class Cut:
    """Where the pieces of a pack lie. ``first_T``, ``count_T``: int64, start and length of the piece that holds each token."""

    first_T: Tensor
    count_T: Tensor


@dataclass(slots=True, frozen=True)
class Tree:
    """Which pieces look at which spans, as numbers.

    ``pieces_P4``: int64, of each piece its first token and the one behind its last, its first span and the one behind its last.
    ``spans_N2``: int64, start and end of each span of keys; the last n keys a piece of n tokens sees are its own.
    """

    pieces_P4: Tensor
    spans_N2: Tensor


class Bytes(Protocol):
    """Numbers in one byte each (``engine/moments.Packed``): uint8 `codes`, and float32 `scales`, one a block.

    A code names one of float32 `levels` ``[256]``; uint8 `table` ``[65536]`` has the nearest level's code by the bits of a bf16 number.
    """

    @property
    def codes(self) -> Tensor: ...
    @property
    def scales(self) -> Tensor: ...
    @property
    def levels(self) -> Tensor: ...
    @property
    def table(self) -> Tensor: ...


@dataclass(slots=True, frozen=True)
class Step:
    """Numbers of an AdamW update, the `count`-th from 1 on. ``divisor``: the gradient is divided by it; float32, one number."""

    rate: float
    decay: float
    beta1: float
    beta2: float
    epsilon: float
    count: int
    divisor: Tensor


class Kernels(Protocol):
    """What both kinds offer. Tensors are contiguous, all of one dtype but for the float32 ones that are named so."""

    name: str

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        """``w x / rms(x)``; float32 ``1 / rms`` is left in `scale_T`."""
        ...

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor | None) -> Tensor:
        """Gradient of x, with `through_TD`, the gradient that went around the norm, added where there is one."""
        ...

    def swiglu(self, gate_up_T2F: Tensor) -> Tensor:
        """``silu(gate) * up``, ``[T, F]``."""
        ...

    def swiglu_back(self, d_TF: Tensor, gate_up_T2F: Tensor) -> Tensor:
        """Gradient of gate and up; `d_TF`, the gradient of the product, is overwritten by the product itself."""
        ...

    def split_heads(
        self, qkv: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, scaling: float
    ) -> None:
        """``[T, (H + 2K) W]`` into `q` (piece by piece ``[H, n, W]``, rotated and scaled), `k_KTW` (rotated) and `v_KTW`."""
        ...

    def join_heads(self, dq: Tensor, dk_KTW: Tensor, dv_KTW: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, scaling: float) -> Tensor:
        """The way back of `split_heads`: the gradient of ``qkv``."""
        ...

    def from_pieces(self, pieces: Tensor, cut: Cut, out_TD: Tensor) -> None:
        """Heads that lie piece by piece ``[H, n, W]`` into ``[T, H W]``; ``pieces`` is ``[T, H, W]`` in size."""
        ...

    def to_pieces(self, g_TD: Tensor, out_TD: Tensor, cut: Cut, heads: int) -> tuple[Tensor, Tensor]:
        """The gradient of attention's output piece by piece, and float32 ``rowsum(g * out)`` of each head in the same order."""
        ...

    def causal_softmax(self, scores_KMS: Tensor, logsum: Tensor, n: int) -> None:
        """Scores of a piece become probabilities in place. Row r is the piece's token ``r % n``, and the last n columns are the piece.

        `logsum` (float32, one a row) belongs to `causal_softmax_back`.
        """
        ...

    def causal_softmax_back(self, scores_KMS: Tensor, dp_KMS: Tensor, logsum: Tensor, delta: Tensor, n: int) -> None:
        """In place: scores become probabilities, and `dp_KMS`, the gradient of those, becomes the gradient of the scores."""
        ...

    def attend(self, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, tree: Tree, out: Tensor, logsum: Tensor) -> bool:
        """Attention of all pieces at once, into `out` and `logsum`: see `pieces.forward`. False where it is left to `causal_softmax`."""
        ...

    def attend_back(
        self, g: Tensor, delta: Tensor, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, logsum: Tensor, tree: Tree, grads: tuple[Tensor, ...]
    ) -> bool:
        """Its gradients, into `grads`, those of q, k and v: see `pieces.backward`. False where it is left to `causal_softmax_back`."""
        ...

    def paged(
        self, q_BHW: Tensor, keys: Tensor, values: Tensor, places_BL: Tensor, count_B: Tensor, *, softcap: float = 0.0, window: int = 0
    ) -> Tensor:
        """One token of each of B rows looks at its row's tokens, whose keys and values ``[P, K, W]`` lie at any places.

        `places_BL`, int32: row b's are the first ``count_B[b]``; what stands behind them is never looked at but must be places. `q_BHW` is
        scaled already. softcap, window: see `sight.probabilities`; 0 is none. Returns ``[B, H, W]``.
        """
        ...

    def adamw8bit(self, weight_n: Tensor, lower_n: Tensor | None, gradient_n: Tensor, first: Bytes, second: Bytes, step: Step) -> bool:
        """One update in place, moments in bytes, the root of the second. False where it is left to torch, and nothing was done.

        `lower_n`, int16: what bf16 weights leave out of their masters. `gradient_n` may be float32 while the weights are not.
        """
        ...


def kernels(x: Tensor) -> Kernels:
    """What computes with tensors like `x`: compiled kernels where there are some, else torch."""
    known = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32)
    return _here() if known else _plain()


@functools.cache
def _plain() -> Kernels:
    from luthier.models.kernels.plain import Plain

    return Plain()


@functools.cache
def _here() -> Kernels:
    """Decided once a process."""
    from luthier.models.kernels.compiled import Compiled, library

    found = None if os.environ.get(OFF) else library()
    return _plain() if found is None else Compiled(found)
