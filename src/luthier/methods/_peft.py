"""LoRA adapters on disk, in the layout of the PEFT library: what it writes is read here, what is written here it reads.

``adapter_config.json`` says rank, alpha and where; ``adapter_model.safetensors`` holds, per linear,
``base_model.model.<path>.lora_A.weight`` ``[R, inputs]`` and ``...lora_B.weight`` ``[outputs, R]``. The config has some fifty fields; those
that change the arithmetic in ways not computed here are refused by name when they are set, so that no adapter is ever half applied.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError
from luthier.core.files import new_folder, write_json
from luthier.models.catalog import catalog
from luthier.models.model import Model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_READ = frozenset({"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"})
_NO_MATTER = frozenset(
    {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "target_modules"}
    | {"exclude_modules", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_core", "megatron_config"}
    | {"qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying"}
)
"""Where the adapter goes is read from its tensors' names; the rest is provenance, or settings of features with their own switch."""

_BASE_AS_IT_IS = frozenset({"gaussian", "orthogonal", "eva"})
"""Ways of drawing `A` that leave the base alone. Others (pissa, olora, loftq ...) rewrite it: the adapter alone is not enough."""


@dataclass(slots=True, frozen=True)
class Size:
    """Rank and alpha of one adapter."""

    rank: int
    alpha: float


@dataclass(slots=True, frozen=True)
class Adapter:
    """What is on disk.

    Attributes:
        common: the size most adapters have. sizes: by path of the linear.
        tensors: ``<path>.lora_A.weight`` and ``<path>.lora_B.weight``.
    """

    common: Size
    sizes: dict[str, Size]
    dropout: float
    rslora: bool
    tensors: dict[str, Tensor]


def write(adapter: Adapter, model: Model, folder: Path) -> None:
    """Write `folder`, replacing an older one, whole or not at all.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with new_folder(folder) as part:
        tensors = {_PREFIX + name: tensor.cpu().clone() for name, tensor in sorted(adapter.tensors.items())}
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        write_json(part / CONFIG, _config(adapter, model))


def read(folder: Path) -> Adapter:
    """Read an adapter.

    Raises:
        ModelError: a file is missing or broken, or the adapter uses something that is not computed here; the message names it.
    """
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    paths = sorted({name.rpartition(".lora_")[0] for name in tensors})
    common = Size(int(config["r"]), float(config["lora_alpha"]))
    sizes = {path: _size(path, tensors, config, common, folder) for path in paths}
    return Adapter(common, sizes, float(config.get("lora_dropout") or 0.0), bool(config.get("use_rslora")), tensors)


def _config(adapter: Adapter, model: Model) -> dict[str, Any]:
    common = adapter.common
    conv = {isinstance(linear, Conv1D) for path, linear in model.linears().items() if path in adapter.sizes}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": portable_name(model),
        "inference_mode": True,
        "r": common.rank,
        "lora_alpha": int(common.alpha) if common.alpha == int(common.alpha) else common.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "rank_pattern": {path: size.rank for path, size in adapter.sizes.items() if size.rank != common.rank},
        "alpha_pattern": {path: size.alpha for path, size in adapter.sizes.items() if size.alpha != common.alpha},
        "target_modules": _shortest(adapter, model),
        "bias": "none",
        "fan_in_fan_out": conv == {True},
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def portable_name(model: Model) -> str:
    """The base's name on the hub where it has one, else the last part of its folder: never a path of this machine."""
    entry = catalog().get(model.name)
    if entry is not None:
        return entry.repo or entry.name
    is_repo = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model.name) and not Path(model.name).exists()
    return model.name if is_repo else (model.folder.name or Path(model.name).name)


def _shortest(adapter: Adapter, model: Model) -> list[str]:
    """Last parts of the names (``q_proj``) where they mean exactly these linears to PEFT, which looks for endings; else whole paths."""
    endings = {path.rpartition(".")[2] for path in adapter.sizes}
    meant = {
        path.removesuffix(".base") for path, _ in model.network.named_modules() if path.removesuffix(".base").rpartition(".")[2] in endings
    }
    return sorted(endings) if meant == adapter.sizes.keys() else sorted(adapter.sizes)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"There is no {CONFIG}.", where=str(folder), remedy="Give the folder of an adapter.", code="adapter") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"This is not JSON: {error}.", where=str(file), remedy="Save the adapter again.", code="adapter") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or not config.get("r") or not config.get("lora_alpha"):
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise ModelError(
            f"This is not a LoRA adapter (peft_type = {kind!r}).",
            where=str(file),
            remedy="Use the method it was made with.",
            code="adapter",
        )
    _refuse(config, file)
    _refuse_slow({**(config.get("rank_pattern") or {}), **(config.get("alpha_pattern") or {})}, file)
    return config


def _refuse(config: dict[str, Any], file: Path) -> None:
    drawn = config.get("init_lora_weights")
    refused = {"init_lora_weights": drawn} if isinstance(drawn, str) and drawn not in _BASE_AS_IT_IS else {}
    refused |= {key: value for key, value in config.items() if key not in _READ | _NO_MATTER and value and value != "none"}
    for key, value in refused.items():
        raise ModelError(
            f"The adapter uses {key} = {json.dumps(value)[:60]}, which is not computed here; applying the rest would be another model.",
            where=str(file),
            remedy="Merge it with the library that made it, and use the merged model.",
            code="adapter_feature",
        )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.exists():
        pickled = (folder / "adapter_model.bin").exists()
        found = "adapter_model.bin is a pickle, which can run any code" if pickled else f"there is no {WEIGHTS}"
        raise ModelError(
            f"No weights that can be read: {found}.", where=str(folder), remedy="Save the adapter as safetensors.", code="adapter"
        )
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"This is not a whole safetensors file: {error}.", where=str(file), remedy="Save the adapter again.", code="adapter"
        ) from error
    names = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in tensors.items()}
    odd = [name for name in names if not re.fullmatch(r".+\.lora_[AB]\.weight", name)]
    if odd or not names:
        raise ModelError(
            f"The file holds {odd[0] if odd else 'nothing'}, which is not part of a plain LoRA.",
            where=str(file),
            remedy="Merge it with the library that made it, and use the merged model.",
            code="adapter_feature",
        )
    return names


def _size(path: str, tensors: dict[str, Tensor], config: dict[str, Any], common: Size, folder: Path) -> Size:
    first, second = tensors.get(f"{path}.lora_A.weight"), tensors.get(f"{path}.lora_B.weight")
    rank = int(_for_path(path, config.get("rank_pattern"), common.rank))
    if first is None or second is None or first.shape[0] != rank or second.shape[1] != rank:
        shapes = [None if t is None else list(t.shape) for t in (first, second)]
        raise ModelError(
            f"{path}: rank {rank} is announced, the matrices are {shapes}.",
            where=str(folder),
            remedy="Save the adapter again.",
            code="adapter",
        )
    return Size(rank, float(_for_path(path, config.get("alpha_pattern"), common.alpha)))


def _for_path(path: str, pattern: dict[str, float] | None, common: float) -> float:
    """PEFT's rule: the first key of the pattern that, as a regular expression, matches the end of the path."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return common


def _refuse_slow(patterns: dict[str, Any], file: Path) -> None:
    """A regular expression from a stranger's file must not keep us busy for ever: few repeats, none of a group."""
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
