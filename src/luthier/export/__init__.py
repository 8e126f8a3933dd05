"""What a tuned model becomes outside. One file per kind; the file name is what ``luthier export --to`` takes.

An exporter is a module with

    NEEDS                                what the method must support, of its `supports`; empty when every method will do
    export(model, method, folder)        fill `folder`, whole or not at all; its docstring's first line is the help

Doors left: gguf, onnx, int4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.registry import Folder

EXPORTERS = Folder("luthier.export", "export")


def free(folder: Path) -> Path:
    """`folder`, if an export may fill it.

    Raises:
        SpecError: something is in it already; an export never deletes what it did not write.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(
            "The folder for the export exists and is not empty.", where=str(folder), remedy="Choose another --out.", code="out_exists"
        )
    return folder


def export(to: str, model: Any, method: Any, folder: Path) -> None:
    """Check that method and exporter fit, and run it.

    Raises:
        SpecError: no such exporter, the method cannot, or `folder` is not empty.
    """
    exporter = EXPORTERS.load(to)
    if exporter.NEEDS and exporter.NEEDS not in method.supports:
        others = [name for name in EXPORTERS.names() if EXPORTERS.load(name).NEEDS in {"", *method.supports}]
        raise SpecError(f"What this method trained cannot be exported as {to}.", remedy=f"It can be: {', '.join(others)}.", code="export")
    exporter.export(model, method, free(folder))
