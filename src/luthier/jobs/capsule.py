"""The capsule: what went into a run and what came out, as hashes, so that anybody can check that a second run is the same.

It names no user, no host and no absolute path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier import __version__
from luthier.core.errors import DataError, ModelError, SpecError, StorageError
from luthier.core.files import fingerprint, sha256, write_json
from luthier.core.spec import Spec
from luthier.models.machine import machine
from luthier.store.runs import RunFolder

WEIGHTS = "*.safetensors"


def seal(folder: RunFolder, spec: Spec, *, model_folder: Path) -> dict[str, Any]:
    """Write ``capsule.json`` for the beginning of a run: data, base, Spec, seed, versions, machine."""
    facts = machine()
    content = {
        "luthier": __version__,
        "spec": spec_fingerprint(spec),
        "seed": spec.train.seed,
        "data": {role: _file_facts(path) for role, path in data_files(spec).items()},
        "base": {"name": Path(spec.model.name).name, "weights": hashes(model_folder)},
        "versions": facts.versions | {"python": facts.python},
        "machine": {
            "system": facts.system,
            "processor": facts.processor,
            "cores": facts.cores,
            "threads": facts.threads,
            "bfloat16": facts.bfloat16,
            "memory_bytes": facts.memory_bytes,
            "accelerator": facts.accelerator,
        },
    }
    write_json(folder.capsule, content)
    return content


def derived(folder: RunFolder, spec: Spec) -> None:
    """Add the fingerprint of the Spec with every number derived; to be called before that Spec is written."""
    write_json(folder.capsule, {**read(folder), "derived": spec_fingerprint(spec)})


def close(folder: RunFolder, spec: Spec) -> None:
    """Add what came out: hashes of the trained weights; the fingerprint is that of the Spec with every number derived."""
    content = {**read(folder), "spec": spec_fingerprint(spec), "weights": hashes(folder.weights)}
    write_json(folder.capsule, {key: value for key, value in content.items() if key != "derived"})


def read(folder: RunFolder) -> dict[str, Any]:
    """The capsule of a run.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(folder.capsule.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError("The capsule of this run cannot be read.", where=str(folder.capsule), remedy="Run the tuning again.") from error
    return content


def verify_data(folder: RunFolder, spec: Spec) -> None:
    """Refuse to continue on other data than the run began with.

    Raises:
        DataError: a file is gone or its content has changed.
    """
    sealed = read(folder)["data"]
    for role, path in data_files(spec).items():
        if not path.is_file():
            raise DataError(
                f"The {role} file of this run is gone.", where=str(path), remedy="Put it back, or begin a new run.", code="data_changed"
            )
        if sha256(path) != sealed[role]["sha256"]:
            remedy = "Put the old content back, or begin a new run: going on would mix two data sets."
            raise DataError(f"The {role} file has changed since this run began.", where=str(path), remedy=remedy, code="data_changed")


def verify_spec(folder: RunFolder, spec: Spec) -> None:
    """Refuse to continue with another Spec than the run began with.

    Raises:
        SpecError: ``spec.yaml`` was edited.
    """
    sealed = read(folder)
    if spec_fingerprint(spec) not in (sealed["spec"], sealed.get("derived")):
        remedy = f"Put the old values back, or begin a new run: luthier tune --config {folder.spec}"
        raise SpecError("spec.yaml has changed since this run began.", where=str(folder.spec), remedy=remedy, code="spec_changed")


def verify_base(folder: RunFolder, model_folder: Path) -> None:
    """Refuse to continue on another base than the run began with.

    Raises:
        ModelError: its weights have changed.
    """
    if hashes(model_folder) != read(folder)["base"]["weights"]:
        remedy = "Put the old weights back, or begin a new run: going on would mix two models."
        raise ModelError("The base has changed since this run began.", where=str(model_folder), remedy=remedy, code="base_changed")


def data_files(spec: Spec) -> dict[str, Path]:
    """The files a Spec reads, by role: ``training``, and ``held-out`` when it is a file of its own."""
    files = {"training": Path(spec.data.file)}
    return files | ({"held-out": Path(spec.data.valid)} if isinstance(spec.data.valid, str) else {})


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every weight file of a folder and of those below it, by name."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in sorted(folder.rglob(WEIGHTS))}


def spec_fingerprint(spec: Spec) -> str:
    """Fingerprint of what was asked, with file names instead of places: the same on every machine."""
    content = spec.model_dump(mode="json")
    content["data"]["file"] = Path(spec.data.file).name
    content["model"]["name"] = Path(spec.model.name).name
    if isinstance(spec.data.valid, str):
        content["data"]["valid"] = Path(spec.data.valid).name
    return fingerprint(content)


def _file_facts(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
