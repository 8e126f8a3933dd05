"""Checkpoints: whole or not there.

    checkpoints/step-000120/
        weights.safetensors     what the method trains
        optimiser.safetensors   fp32 masters and moments
        state.json              step, history of held-out losses, fencing token
        manifest.json           sha256 of the three

A checkpoint is written beside, fsynced and renamed; one whose hashes do not match its manifest is passed over, with a note.
No random state is kept: order and dropout follow from seed and step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core.errors import StorageError
from luthier.core.files import new_folder, sha256, storing, write_json

KEPT = 2
"""How many checkpoints stay: the newest, and one before it should the newest be damaged."""

PREFIX = "step-"


@dataclass(slots=True)
class Progress:
    """Where a session stands, beside its weights.

    Attributes:
        step: optimiser steps done.
        best_step, best_loss: the look with the lowest held-out loss so far; step 0 and infinity before the first.
        looks_without_better: looks since then.
        token: fencing token of the worker that wrote it; a successor's is higher.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    looks_without_better: int = 0
    token: int = 0
    looks: list[tuple[int, float]] = field(default_factory=list)


def save(folder: Path, *, weights: dict[str, Tensor], optimiser: dict[str, Tensor], progress: Progress) -> Path:
    """Write ``folder/step-NNNNNN`` and let go of older ones.

    Returns:
        the folder written.

    Raises:
        StorageError: the disk is full or read-only; earlier checkpoints are intact.
    """
    target = folder / f"{PREFIX}{progress.step:06d}"
    with new_folder(target) as part:
        _save_tensors(weights, part / "weights.safetensors")
        _save_tensors(optimiser, part / "optimiser.safetensors")
        write_json(part / "state.json", asdict(progress))
        write_json(part / "manifest.json", {file.name: sha256(file) for file in sorted(part.iterdir())})
    for old in sorted(folder.glob(f"{PREFIX}*"))[:-KEPT]:
        shutil.rmtree(old)
    return target


def save_weights(target: Path, weights: dict[str, Tensor]) -> None:
    """Write the best weights so far, atomically."""
    with new_folder(target) as part:
        _save_tensors(weights, part / "weights.safetensors")
        write_json(part / "manifest.json", {"weights.safetensors": sha256(part / "weights.safetensors")})


def whole(folder: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return all(sha256(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> Iterator[Path]:
    """Whole checkpoints, newest first."""
    for candidate in sorted(folder.glob(f"{PREFIX}*"), reverse=True):
        if whole(candidate):
            yield candidate


@dataclass(slots=True)
class Loaded:
    """What a checkpoint holds."""

    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    progress: Progress


def load(folder: Path) -> Loaded:
    """Read a whole checkpoint.

    Raises:
        StorageError: a file is missing or damaged.
    """
    if not whole(folder):
        raise StorageError("This checkpoint is incomplete or damaged.", where=str(folder), remedy="Resume from an older one.")
    content = json.loads((folder / "state.json").read_text())
    progress = Progress(**{**content, "looks": [tuple(look) for look in content["looks"]]})
    return Loaded(load_file(folder / "weights.safetensors"), load_file(folder / "optimiser.safetensors"), progress)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights alone, of a checkpoint or of the best so far."""
    if not whole(folder):
        raise StorageError("These weights are incomplete or damaged.", where=str(folder), remedy="Resume the run to write them again.")
    return load_file(folder / "weights.safetensors")


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    with storing(path):
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
        except OSError:
            raise
        except Exception as error:  # safetensors reports a full disk as its own exception
            raise OSError(f"{error}") from error
