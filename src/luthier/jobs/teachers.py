"""The model a run learns from: its own base, another model, or what another run made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.core.errors import NotFound, SpecError
from luthier.core.files import sha256
from luthier.core.spec import Spec
from luthier.jobs import capsule
from luthier.jobs.result import Run
from luthier.models.find import find
from luthier.models.load import load
from luthier.models.model import Model
from luthier.store import runs


@contextmanager
def as_base(model: Model, method: Any) -> Iterator[Model]:
    """`model` as it was before its method: one that cannot be switched off answers as the base until the first step."""
    if "swap" in method.supports:
        with method.active(model, False):
            yield model
    else:
        yield model


@contextmanager
def teacher(name: str, spec: Spec, student: Model, method: Any, *, tokens: bool = True) -> Iterator[Model]:
    """The teacher called `name`; the student's own base where it is empty.

    Args:
        tokens: its tokens are compared with the student's, so both must have one tokenizer.

    Raises:
        NotFound: nothing is called so. SpecError: another tokenizer.
    """
    if not name:
        with as_base(student, method) as base:
            yield base
        return
    run = _run(name)
    found = run.model if run else load(name, dtype=spec.model.dtype)
    if tokens and found.renderer.tokenizer.fingerprint != student.renderer.tokenizer.fingerprint:
        raise SpecError(
            f"The teacher {name} writes other tokens than {student.name}: their tokenizers differ.",
            remedy="Take a teacher of the same family, or let it only write answers: objective.answers=teacher, objective.share=0.",
            code="teacher",
        )
    yield found


def identity(name: str) -> list[str]:
    """Hashes of everything that decides what a teacher says."""
    run = _run(name)
    folders = [run.files.weights, find(run.spec.model.name)] if run else [find(name)]
    return [_hash(file, file.stat().st_mtime_ns) for folder in folders for file in sorted(folder.rglob(capsule.WEIGHTS))]


def base_identity(model: Model) -> list[str]:
    """Hashes of a model's own files, and the form in which it is computed with."""
    files = sorted(model.folder.glob(capsule.WEIGHTS))
    return [*(_hash(file, file.stat().st_mtime_ns) for file in files), str(model.dtype), model.packing]


def _run(name: str) -> Run | None:
    """The run of that name; models come first, as everywhere."""
    if re.fullmatch(r"[\w.-]+", name) or Path(name).is_dir():
        try:
            find(name)
        except (NotFound, ValueError):
            return Run(runs.find(name))
    return None


@lru_cache(maxsize=64)
def _hash(file: Path, _: int) -> str:
    """Hash of a weight file, which is asked for several times a run and does not change between."""
    return sha256(file)
