"""Adapters on disk, in the layout of the PEFT library: what it writes is read here, what is written here it reads.

``adapter_config.json`` says what kind of adapter it is and how large; ``adapter_model.safetensors`` holds its tensors, those of a
module by ``base_model.model.<path>.<part>``. A config has some fifty fields; those that change the arithmetic in ways not computed here
are refused by name when they are set, so that no adapter is ever half applied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.files import new_folder, write_json
from luthier.models.catalog import catalog
from luthier.models.model import Model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT's wrappers put before a module's own path."""

_NO_MATTER = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"target_modules", "exclude_modules", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "runtime_config"}
)
"""Where an adapter goes is read from its tensors' names; the rest is provenance."""


def write(folder: Path, model: Model, *, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write `folder`, replacing an older one, whole or not at all.

    Args:
        config: with its ``peft_type``; what all kinds say alike is added. tensors: by the names on disk.

    Raises:
        StorageError: the disk is full or read-only.
    """
    common = {"task_type": task(model), "base_model_name_or_path": portable_name(model), "inference_mode": True}
    with new_folder(folder) as part:
        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sorted(tensors.items())}
        save_file(kept, part / WEIGHTS, metadata={"format": "pt"})
        write_json(part / CONFIG, common | config)


def read(
    folder: Path, kind: str, *, needs: Iterable[str] = (), reads: Iterable[str] = (), ignores: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors (fp32, names without `PREFIX`) of an adapter.

    Args:
        kind: its ``peft_type``. needs: fields that must say something. reads: fields that the caller computes with.
        ignores: fields of this kind that change nothing here. Any other field that is set is refused.

    Raises:
        ModelError: a file is missing or broken, or the adapter uses something that is not computed here; the message names it.
    """
    found = config(folder, kind, needs=tuple(needs))
    refuse({key: value for key, value in found.items() if key not in {*_NO_MATTER, *needs, *reads, *ignores}}, folder / CONFIG)
    return found, {name.removeprefix(PREFIX): tensor.float() for name, tensor in tensors(folder).items()}


def task(model: Model) -> str | None:
    """Which of PEFT's wrappers takes the base: those of writers call them with tokens alone, and the plain one (None) is for all others."""
    inputs = getattr(model.network, "main_input_name", "")
    if "next-token" not in model.family.GIVES or inputs != "input_ids":
        return None
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def refuse(settings: dict[str, Any], file: Path) -> None:
    """Refuse the first of `settings` that is set.

    Raises:
        ModelError: names it.
    """
    for key, value in settings.items():
        if value and value != "none":
            raise ModelError(
                f"The adapter uses {key} = {json.dumps(value)[:60]}, which is not computed here; applying the rest would be another model.",
                where=str(file),
                remedy="Merge it with the library that made it, and use the merged model.",
                code="adapter_feature",
            )


def portable_name(model: Model) -> str:
    """The base's name on the hub where it has one, else the last part of its folder: never a path of this machine."""
    entry = catalog().get(model.name)
    if entry is not None:
        return entry.repo or entry.name
    is_repo = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model.name) and not Path(model.name).exists()
    return model.name if is_repo else (model.folder.name or Path(model.name).name)


def shortest(paths: Iterable[str], model: Model) -> list[str]:
    """Last parts of the names (``q_proj``) where they mean exactly these modules to PEFT, which looks for endings; else whole paths."""
    wanted = set(paths)
    endings = {path.rpartition(".")[2] for path in wanted}
    known = (path.removesuffix(".base") for path, _ in model.network.named_modules())
    meant = {path for path in known if path.rpartition(".")[2] in endings}
    return sorted(endings) if meant == wanted else sorted(wanted)


def is_strange(paths: Iterable[str], known: Iterable[str], model: Model, folder: Path) -> None:
    """Refuse an adapter for modules that are not there.

    Raises:
        ModelError: names the first.
    """
    strangers = sorted(set(paths) - set(known))
    if strangers:
        raise ModelError(
            f"The adapter changes {strangers[0]}, which is not a linear in a block of {model.name}.",
            where=str(folder),
            remedy="Load it on the base it was tuned on; adapters on embedding or head are not computed.",
            code="adapter",
        )


def not_part(names: Iterable[str], what: str, folder: Path) -> ModelError:
    """The error for tensors that do not belong."""
    odd = next(iter(names), "nothing")
    return ModelError(
        f"The file holds {odd}, which is not part of {what}.",
        where=str(folder / WEIGHTS),
        remedy="Merge it with the library that made it, and use the merged model.",
        code="adapter_feature",
    )


def misfit(what: str, folder: Path) -> ModelError:
    """The error for an adapter of another model's shape."""
    return ModelError(what, where=str(folder), remedy="Load it on the base it was tuned on.", code="adapter")


def config(folder: Path, kind: str | None, *, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config of an adapter of this kind; of any kind where None.

    Raises:
        ModelError: there is none, it is broken, or of another kind.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"There is no {CONFIG}.", where=str(folder), remedy="Give the folder of an adapter.", code="adapter") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"This is not JSON: {error}.", where=str(file), remedy="Save the adapter again.", code="adapter") from error
    found = config.get("peft_type") if isinstance(config, dict) else config
    if not isinstance(config, dict) or found != (kind or found) or not all(config.get(key) for key in needs):
        raise ModelError(
            f"This is not an adapter of kind {kind} (peft_type = {found!r}).",
            where=str(file),
            remedy="Use the method it was made with.",
            code="adapter",
        )
    return config


def tensors(folder: Path) -> dict[str, Tensor]:
    """Everything in the weight file, as it is.

    Raises:
        ModelError: there is none, it is a pickle, or broken.
    """
    file = folder / WEIGHTS
    if not file.exists():
        pickled = (folder / "adapter_model.bin").exists()
        found = "adapter_model.bin is a pickle, which can run any code" if pickled else f"there is no {WEIGHTS}"
        raise ModelError(
            f"No weights that can be read: {found}.", where=str(folder), remedy="Save the adapter as safetensors.", code="adapter"
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"This is not a whole safetensors file: {error}.", where=str(file), remedy="Save the adapter again.", code="adapter"
        ) from error


def refuse_slow(patterns: Iterable[str], file: Path) -> None:
    """A regular expression from a stranger's file must not keep us busy for ever: few repeats, none of a group.

    Raises:
        ModelError: names the pattern.
    """
    for key in patterns:
        slow = len(key) > 512 or re.search(r"\)[*+?{]", key) or len(re.findall(r"[*+{]", key)) > 3
        try:
            re.compile(key)
        except re.error:
            slow = True
        if slow:
            raise ModelError(
                f"The pattern {key[:60]!r} is not a plain one.", where=str(file), remedy="Save the adapter with names.", code="adapter"
            )
