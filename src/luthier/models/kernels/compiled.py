"""The kernels compiled from C++, called through the C interface: addresses and sizes, no headers of torch."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core import home
from luthier.core.files import fingerprint
from luthier.models.kernels import Bytes, Cut, Step, Tree

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "attention.cpp")]
HEADER = Path(__file__).with_name("numbers.hpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-exceptions",
    "-fopenmp",
    "-shared",
    "-fPIC",
)
WIDE = "-mprefer-vector-width=512"
"""Compilers shy away from the widest vectors by themselves; on every AVX-512 machine with bf16 they pay."""


class Compiled:
    """Through the C interface: addresses and sizes."""

    name = "compiled"

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def _call(self, kernel: str, dtype: torch.dtype, *arguments: Any) -> int:
        function = getattr(self.library, f"{kernel}_{'bfloat16' if dtype == torch.bfloat16 else 'float32'}")
        return int(function(*map(_argument, arguments)))  # says something where the kernel may refuse

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        y = torch.empty_like(x_TD)
        self._call("rms_norm", x_TD.dtype, x_TD, w_D, y, scale_T, *x_TD.shape, epsilon)
        return y

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor | None) -> Tensor:
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

    def attend(self, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, tree: Tree, out: Tensor, logsum: Tensor) -> bool:
        sizes = k_KTW.shape[1], q.shape[-2], k_KTW.shape[0], k_KTW.shape[2]
        return bool(self._call("attend", q.dtype, q, k_KTW, v_KTW, tree.pieces_P4, tree.spans_N2, len(tree.pieces_P4), out, logsum, *sizes))

    def attend_back(
        self, g: Tensor, delta: Tensor, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, logsum: Tensor, tree: Tree, grads: tuple[Tensor, ...]
    ) -> bool:
        sizes = k_KTW.shape[1], q.shape[-2], k_KTW.shape[0], k_KTW.shape[2]
        given = g, delta, q, k_KTW, v_KTW, logsum, tree.pieces_P4, tree.spans_N2, len(tree.pieces_P4)
        return bool(self._call("attend_back", q.dtype, *given, *grads, *sizes))

    def paged(
        self, q_BHW: Tensor, keys: Tensor, values: Tensor, places_BL: Tensor, count_B: Tensor, *, softcap: float = 0.0, window: int = 0
    ) -> Tensor:
        out = torch.empty_like(q_BHW)
        sizes = *places_BL.shape, q_BHW.shape[1], *keys.shape[1:]
        self._call("paged", out.dtype, q_BHW, keys, values, places_BL, count_B, out, *sizes, softcap, window)
        return out

    def adamw8bit(self, weight_n: Tensor, lower_n: Tensor | None, gradient_n: Tensor, first: Bytes, second: Bytes, step: Step) -> bool:
        gradients = (gradient_n, None) if gradient_n.dtype == weight_n.dtype else (None, gradient_n)
        moments = (each for moment in (first, second) for each in (moment.codes, moment.scales, moment.levels, moment.table))
        numbers = step.rate / (1 - step.beta1**step.count), 1 - step.rate * step.decay, step.beta1, step.beta2
        root_bias = math.sqrt(1 - step.beta2**step.count)
        given = weight_n, lower_n, *gradients, *moments, step.divisor, len(weight_n)
        self._call("adamw8bit", weight_n.dtype, *given, *numbers, root_bias, step.epsilon)
        return True


def _argument(value: Tensor | int | float | None) -> Any:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


def compiler() -> str:
    """The command that would make them; empty without one."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""


def library() -> Path | None:
    """The compiled kernels on disk, made now if need be; None without a compiler that makes them."""
    command = compiler()
    if not command:
        return None
    made_from = [
        *(file.read_text(encoding="utf-8") for file in (*SOURCES, HEADER)),
        command,
        *FLAGS,
        platform.machine(),
        str(torch.cpu.get_capabilities()),
    ]
    target = home.cache_folder() / "kernels" / f"{fingerprint(made_from)[:16]}.so"
    return target if target.exists() or _compile(command, target) else None


def _compile(compiler: str, target: Path) -> bool:
    """Whether they are there now; where they cannot be made or written, the torch ones do."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            part = Path(place) / target.name
            for flags in ((*FLAGS, WIDE), FLAGS):  # a compiler or a processor may not know the wide ones
                command = [*shlex.split(compiler), *flags, *map(str, SOURCES), "-o", str(part)]
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    ctypes.CDLL(str(part))  # raises where something it needs is not there
                    os.replace(part, target)
                    return True
    except OSError:
        pass
    return False
