"""A plain model in the Hugging Face layout: adapter folded in, frozen template beside it. Any transformers-based software loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.models.load import save
from luthier.models.model import Model

NEEDS = "merge"


def export(model: Model, method: Any, folder: Path) -> None:
    """The whole model with the tuning folded into its weights. Afterwards `model` in memory is merged, too.

    In bfloat16 the sum is rounded once more, so answers differ from the unmerged ones by that noise; the certificate's replay bounds it.

    Raises:
        StorageError: the disk is full or read-only.
    """
    method.merge(model)
    save(model, folder)
