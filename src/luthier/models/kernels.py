"""The elementwise work between a block's matmuls, twice: in torch, and compiled from ``kernels.cpp`` (one pass over memory each).

A C++ compiler on the machine is enough for the compiled ones: no headers, about two seconds, kept in ``LUTHIER_HOME/cache`` for every
later run. Without one the torch ones run. Both give the same numbers within rounding (``tests/models/test_kernels.py``); on two cores of
an AVX-512 machine the compiled ones take a quarter to a tenth of the time (docs/performance.md).

T tokens, D width of a state, F width of the MLP, H query heads, K key-value heads, W width of a head, n tokens of a piece, S tokens seen.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from luthier.core import home
from luthier.core.files import fingerprint

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")
WIDE = "-mprefer-vector-width=512"
"""Compilers shy away from the widest vectors by themselves; on every AVX-512 machine with bf16 they pay."""

OFF = "LUTHIER_NO_COMPILER"
"""Set this variable to run without the compiled kernels, e.g. to compare."""


@dataclass(slots=True, frozen=True)
class Cut:
    """Where the pieces of a pack lie. ``first_T``, ``count_T``: int64, start and length of the piece that holds each token."""

    first_T: Tensor
    count_T: Tensor


class Kernels(Protocol):
    """What both kinds offer. Tensors are contiguous, all of one dtype but for the float32 ones that are named so."""

    name: str

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        """``w x / rms(x)``; float32 ``1 / rms`` is left in `scale_T`."""
        ...

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor) -> Tensor:
        """Gradient of x, with `through_TD`, the gradient that went around the norm, added."""
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


class Plain:
    """In torch. What it does is the definition."""

    name = "torch"

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        x32 = x_TD.float()
        torch.rsqrt(x32.pow(2).mean(-1) + epsilon, out=scale_T)
        return (x32 * scale_T[:, None]).to(x_TD.dtype).mul_(w_D)

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor) -> Tensor:
        n = x_TD.float() * scale_T[:, None]
        g = g_TD.float() * w_D
        inner = (g * n).mean(-1, keepdim=True)
        return g.sub_(n.mul_(inner)).mul_(scale_T[:, None]).add_(through_TD).to(x_TD.dtype)

    def swiglu(self, gate_up_T2F: Tensor) -> Tensor:
        gate, up = gate_up_T2F.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def swiglu_back(self, d_TF: Tensor, gate_up_T2F: Tensor) -> Tensor:
        gate, up = gate_up_T2F.chunk(2, dim=-1)
        silu = functional.silu(gate)
        out = torch.empty_like(gate_up_T2F)
        dgate, dup = out.chunk(2, dim=-1)
        dgate.copy_(torch.ops.aten.silu_backward(d_TF * up, gate))
        torch.mul(silu, d_TF, out=dup)
        torch.mul(silu, up, out=d_TF)
        return out

    def split_heads(
        self, qkv: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, scaling: float
    ) -> None:
        tokens, width = cos_TW.shape
        kv = k_KTW.shape[0]
        x = qkv.view(tokens, -1, width)
        heads = x.shape[1] - 2 * kv
        turned = _turned(x[:, : heads + kv], cos_TW[:, None], sin_TW[:, None])
        q.view(-1, width)[_places(cut, heads)] = (turned[:, :heads] * scaling).reshape(-1, width)
        k_KTW.copy_(turned[:, heads:].transpose(0, 1))
        v_KTW.copy_(x[:, heads + kv :].transpose(0, 1))

    def join_heads(self, dq: Tensor, dk_KTW: Tensor, dv_KTW: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, scaling: float) -> Tensor:
        tokens, width = cos_TW.shape
        heads = dq.numel() // (tokens * width)
        q = dq.view(-1, width)[_places(cut, heads)].view(tokens, heads, width) * scaling
        turned = torch.cat([q, dk_KTW.transpose(0, 1)], dim=1)
        back = _turned_back(turned, cos_TW[:, None], sin_TW[:, None])
        return torch.cat([back, dv_KTW.transpose(0, 1)], dim=1).view(tokens, -1)

    def from_pieces(self, pieces: Tensor, cut: Cut, out_TD: Tensor) -> None:
        width = pieces.shape[-1]
        heads = out_TD.shape[1] // width
        out_TD.view(-1, width).copy_(pieces.view(-1, width)[_places(cut, heads)])

    def to_pieces(self, g_TD: Tensor, out_TD: Tensor, cut: Cut, heads: int) -> tuple[Tensor, Tensor]:
        places = _places(cut, heads)
        tokens = g_TD.shape[0]
        pieces, delta = torch.empty_like(g_TD), g_TD.new_empty(tokens * heads, dtype=torch.float32)
        pieces.view(tokens * heads, -1)[places] = g_TD.view(tokens * heads, -1)
        delta[places] = (g_TD.float() * out_TD.float()).view(tokens * heads, -1).sum(-1)
        return pieces.view(tokens, heads, -1), delta

    def causal_softmax(self, scores_KMS: Tensor, logsum: Tensor, n: int) -> None:
        torch.softmax(_masked(scores_KMS, n), dim=-1, out=scores_KMS)

    def causal_softmax_back(self, scores_KMS: Tensor, dp_KMS: Tensor, logsum: Tensor, delta: Tensor, n: int) -> None:
        self.causal_softmax(scores_KMS, logsum, n)
        dp_KMS.sub_(delta.view(*dp_KMS.shape[:2], 1).to(dp_KMS.dtype)).mul_(scores_KMS)


def _masked(scores_KMS: Tensor, n: int) -> Tensor:
    kv, rows, seen = scores_KMS.shape
    hidden = torch.ones(n, n, dtype=torch.bool, device=scores_KMS.device).triu_(1)
    scores_KMS.view(kv, rows // n, n, seen)[..., seen - n :].masked_fill_(hidden, float("-inf"))
    return scores_KMS


def _places(cut: Cut, heads: int) -> Tensor:
    """Row, in a layout piece by piece ``[H, n, W]``, of every (token, head)."""
    offset_T = torch.arange(len(cut.first_T), device=cut.first_T.device) - cut.first_T
    return (
        (cut.first_T * heads + offset_T)[:, None] + torch.arange(heads, device=cut.first_T.device)[None, :] * cut.count_T[:, None]
    ).view(-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al., arXiv 2104.09864, eq. 34), halves rotated against each other as Llama does."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


def _turned_back(g: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of `_turned`."""
    a, b = (g * sin).chunk(2, dim=-1)
    return g * cos + torch.cat([b, -a], dim=-1)


class Compiled:
    """From ``kernels.cpp``, through the C interface: addresses and sizes."""

    name = "compiled"

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def _call(self, kernel: str, dtype: torch.dtype, *arguments: Any) -> None:
        function = getattr(self.library, f"{kernel}_{'bfloat16' if dtype == torch.bfloat16 else 'float32'}")
        function(*map(_argument, arguments))

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        y = torch.empty_like(x_TD)
        self._call("rms_norm", x_TD.dtype, x_TD, w_D, y, scale_T, *x_TD.shape, epsilon)
        return y

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor) -> Tensor:
        out = torch.empty_like(x_TD)
        self._call("rms_norm_back", x_TD.dtype, g_TD, x_TD, scale_T, w_D, through_TD, out, *x_TD.shape)
        return out

    def swiglu(self, gate_up_T2F: Tensor) -> Tensor:
        tokens, twice = gate_up_T2F.shape
        act = gate_up_T2F.new_empty(tokens, twice // 2)
        self._call("swiglu", act.dtype, gate_up_T2F, act, *act.shape)
        return act

    def swiglu_back(self, d_TF: Tensor, gate_up_T2F: Tensor) -> Tensor:
        out = torch.empty_like(gate_up_T2F)
        self._call("swiglu_back", d_TF.dtype, d_TF, gate_up_T2F, out, *d_TF.shape)
        return out

    def split_heads(
        self, qkv: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, scaling: float
    ) -> None:
        tokens, width = cos_TW.shape
        sizes = tokens, q.numel() // (tokens * width), k_KTW.shape[0], width
        self._call("split_heads", qkv.dtype, qkv, cos_TW, sin_TW, cut.first_T, cut.count_T, q, k_KTW, v_KTW, *sizes, scaling)

    def join_heads(self, dq: Tensor, dk_KTW: Tensor, dv_KTW: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, scaling: float) -> Tensor:
        tokens, width = cos_TW.shape
        heads, kv = dq.numel() // (tokens * width), dk_KTW.shape[0]
        out = dq.new_empty(tokens, (heads + 2 * kv) * width)
        given = dq, dk_KTW, dv_KTW, cos_TW, sin_TW, cut.first_T, cut.count_T, out
        self._call("join_heads", dq.dtype, *given, tokens, heads, kv, width, scaling)
        return out

    def from_pieces(self, pieces: Tensor, cut: Cut, out_TD: Tensor) -> None:
        tokens, width = out_TD.shape[0], pieces.shape[-1]
        self._call("from_pieces", pieces.dtype, pieces, cut.first_T, cut.count_T, out_TD, tokens, out_TD.shape[1] // width, width)

    def to_pieces(self, g_TD: Tensor, out_TD: Tensor, cut: Cut, heads: int) -> tuple[Tensor, Tensor]:
        tokens, width = g_TD.shape[0], g_TD.shape[1] // heads
        pieces, delta = g_TD.new_empty(tokens, heads, width), torch.empty(tokens * heads)
        self._call("to_pieces", g_TD.dtype, g_TD, out_TD, cut.first_T, cut.count_T, pieces, delta, tokens, heads, width)
        return pieces, delta

    def causal_softmax(self, scores_KMS: Tensor, logsum: Tensor, n: int) -> None:
        kv, rows, seen = scores_KMS.shape
        self._call("causal_softmax", scores_KMS.dtype, scores_KMS, logsum, kv * rows, n, seen)

    def causal_softmax_back(self, scores_KMS: Tensor, dp_KMS: Tensor, logsum: Tensor, delta: Tensor, n: int) -> None:
        kv, rows, seen = scores_KMS.shape
        self._call("causal_softmax_back", scores_KMS.dtype, scores_KMS, dp_KMS, logsum, delta, kv * rows, n, seen)


def _argument(value: Tensor | int | float) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


def kernels(x: Tensor) -> Kernels:
    """What computes with tensors like `x`: compiled kernels where there are some, else torch."""
    known = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32)
    return _here() if known else _PLAIN


_PLAIN = Plain()


@functools.cache
def _here() -> Kernels:
    """Decided once a process."""
    library = None if os.environ.get(OFF) else compiled_library()
    return _PLAIN if library is None else Compiled(library)


def compiled_library() -> Path | None:
    """The compiled kernels on disk, made now if need be; None without a compiler that makes them."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        return None
    made_from = [SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, platform.machine(), str(torch.cpu.get_capabilities())]
    target = home.cache_folder() / "kernels" / f"{fingerprint(made_from)[:16]}.so"
    return target if target.exists() or _compile(compiler, target) else None


def _compile(compiler: str, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        part = Path(place) / target.name
        for flags in ((*FLAGS, WIDE), FLAGS):  # a compiler or a processor may not know the wide ones
            command = [compiler, *flags, str(SOURCE), "-o", str(part)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                os.replace(part, target)
                return True
    return False
