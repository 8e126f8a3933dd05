"""LoRA and DoRA adapters on disk (`_peft`): ``lora_A.weight`` ``[R, inputs]`` and ``lora_B.weight`` ``[outputs, R]`` of each linear, and
DoRA's ``lora_magnitude_vector`` ``[outputs]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError
from luthier.methods import _peft
from luthier.models.model import Model

_READ = frozenset({"lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights"})
_NO_MATTER = frozenset({"megatron_core", "megatron_config", "qalora_group_size", "loftq_config", "ensure_weight_tying"})
"""Settings of features that have their own switch."""

_BASE_AS_IT_IS = frozenset({"gaussian", "orthogonal", "eva"})
"""Ways of drawing `A` that leave the base alone. Others (pissa, olora, loftq ...) rewrite it: the adapter alone is not enough."""

_PART = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_magnitude_vector)")


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
        tensors: ``<path>.lora_A.weight`` and so on.
    """

    common: Size
    sizes: dict[str, Size]
    dropout: float
    rslora: bool
    dora: bool
    tensors: dict[str, Tensor]


def write(adapter: Adapter, model: Model, folder: Path) -> None:
    """Write `folder`, replacing an older one, whole or not at all.

    Raises:
        StorageError: the disk is full or read-only.
    """
    tensors = {_peft.PREFIX + name: tensor for name, tensor in adapter.tensors.items()}
    _peft.write(folder, model, config=_config(adapter, model), tensors=tensors)


def read(folder: Path) -> Adapter:
    """Read an adapter.

    Raises:
        ModelError: a file is missing or broken, or the adapter uses something that is not computed here; the message names it.
    """
    config, tensors = _peft.read(folder, "LORA", needs=("r", "lora_alpha"), reads=_READ, ignores=_NO_MATTER)
    file, drawn = folder / _peft.CONFIG, config.get("init_lora_weights")
    if isinstance(drawn, str) and drawn not in _BASE_AS_IT_IS:
        _peft.refuse({"init_lora_weights": drawn}, file)
    _peft.refuse_slow([*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})], file)
    dora = bool(config.get("use_dora"))
    odd = [name for name in tensors if not (found := _PART.fullmatch(name)) or (not dora and found[2] == "lora_magnitude_vector")]
    if odd or not tensors:
        raise _peft.not_part(odd, "a plain LoRA", folder)
    common = Size(int(config["r"]), float(config["lora_alpha"]))
    paths = sorted({name.rpartition(".lora_")[0] for name in tensors})
    sizes = {path: _size(path, tensors, config, common, folder, dora=dora) for path in paths}
    return Adapter(common, sizes, float(config.get("lora_dropout") or 0.0), bool(config.get("use_rslora")), dora, tensors)


def _config(adapter: Adapter, model: Model) -> dict[str, Any]:
    common = adapter.common
    conv = {isinstance(linear, Conv1D) for path, linear in model.linears().items() if path in adapter.sizes}
    return {
        "peft_type": "LORA",
        "r": common.rank,
        "lora_alpha": int(common.alpha) if common.alpha == int(common.alpha) else common.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "rank_pattern": {path: size.rank for path, size in adapter.sizes.items() if size.rank != common.rank},
        "alpha_pattern": {path: size.alpha for path, size in adapter.sizes.items() if size.alpha != common.alpha},
        "target_modules": _peft.shortest(adapter.sizes, model),
        "bias": "none",
        "fan_in_fan_out": conv == {True},
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _size(path: str, tensors: dict[str, Tensor], config: dict[str, Any], common: Size, folder: Path, *, dora: bool) -> Size:
    first, second = tensors.get(f"{path}.lora_A.weight"), tensors.get(f"{path}.lora_B.weight")
    rank = int(_for_path(path, config.get("rank_pattern"), common.rank))
    whole = not dora or f"{path}.lora_magnitude_vector" in tensors
    if first is None or second is None or first.shape[0] != rank or second.shape[1] != rank or not whole:
        shapes = [None if t is None else list(t.shape) for t in (first, second)]
        raise ModelError(
            f"{path}: rank {rank} is announced, the matrices are {shapes}{'' if whole else ', without a magnitude'}.",
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
