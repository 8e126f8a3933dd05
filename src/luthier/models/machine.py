"""What this machine has: cores, number formats, memory, accelerator, libraries."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from luthier.models.kernels.compiled import compiler

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "pyarrow", "numpy")
"""Those whose version can change a number; recorded in every run's capsule."""


@dataclass(slots=True, frozen=True)
class Machine:
    """Facts, measured when asked.

    Attributes:
        cores: that this process may use; threads: that torch uses. bfloat16: the processor (or accelerator) computes in it.
        memory_bytes, free_bytes: main memory, respecting a container's limit. accelerator: its name, or empty.
        compiler: path of a C++ compiler (torch.compile needs one), or empty.
    """

    system: str
    processor: str
    cores: int
    threads: int
    bfloat16: bool
    memory_bytes: int
    free_bytes: int
    accelerator: str
    accelerator_bytes: int
    compiler: str
    python: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The facts as plain fields."""
        return asdict(self)


def machine() -> Machine:
    """Look at the machine now."""
    accelerated = torch.cuda.is_available()
    total, free = memory()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        bfloat16=has_bfloat16(),
        memory_bytes=total,
        free_bytes=free,
        accelerator=torch.cuda.get_device_name() if accelerated else "",
        accelerator_bytes=torch.cuda.get_device_properties(0).total_memory if accelerated else 0,
        compiler=compiler(),
        python=sys.version.split()[0],
        versions=versions(),
    )


def compute_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies in it (AVX512-BF16, AMX, CUDA), else float32: emulated it would be slower, not faster."""
    return torch.bfloat16 if has_bfloat16() else torch.float32


def has_bfloat16() -> bool:
    """The processor or the accelerator multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))


def versions() -> dict[str, str]:
    """Versions of the libraries whose change can change a number."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cores() -> int:
    """Cores this process may run on: an affinity mask counts, the machine's own number does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return str(name)


def resident() -> int:
    """Bytes of main memory this process has now."""
    return int(psutil.Process().memory_info().rss)


def memory() -> tuple[int, int]:
    """Total and free main memory; inside a container its limit (cgroup v2), which psutil does not know."""
    seen = psutil.virtual_memory()
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no cgroup, or "max"
        return seen.total, seen.available
    return min(limit, seen.total), min(max(limit - used, 0), seen.available)
