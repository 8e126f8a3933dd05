"""An adapter in the PEFT layout, for everything that loads adapters: PEFT, vLLM, transformers.

adapter_config.json          rank, alpha, where; the base by name, never by a path of this machine
adapter_model.safetensors    the matrices
tokenizer.json ...           tokenizer and chat template as used in training: serve with these, not with the base's
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.files import new_folder
from luthier.models.model import Model

NEEDS = "peft"


def export(model: Model, method: Any, folder: Path) -> None:
    """The adapter alone, a few megabytes, to be loaded on top of its base.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with new_folder(folder) as part:
        method.save(model, part)
        model.renderer.save(part)
