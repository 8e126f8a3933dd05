"""Luthier tunes language models on your examples, on your own hardware, and proves whether they got better."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Spec", "load", "tune"]

# Names are resolved on first use so that `import luthier` and `luthier --help` never pay for torch.
_WHERE = {"Spec": "luthier.core.spec", "tune": "luthier.jobs.run", "load": "luthier.jobs.run"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
