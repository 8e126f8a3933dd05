"""LoRA: the weights stand still, and beside each linear a product of two thin matrices learns (arXiv 2106.09685).

About 1 % of the weights move at rank 16; the result is a file of a few megabytes that PEFT, vLLM and others load, and the base can
be asked at any time. The formula is in ``_lowrank.py``, its relatives' in ``_dora.py`` and ``_pissa.py``, the layout on disk in
``_lora_files.py``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field, model_validator
from torch import Tensor, nn

from luthier.core.errors import SpecError
from luthier.core.spec import Auto, Strict
from luthier.methods import _hosted, _lora_files, _peft
from luthier.methods._dora import Dora
from luthier.methods._groups import ParameterGroup
from luthier.methods._lora_files import Adapter, Size
from luthier.methods._lowrank import LowRank, shape
from luthier.methods._pissa import Anchored
from luthier.methods._targets import names, targets
from luthier.models import slot
from luthier.models.model import Model


class Options(Strict):
    """Settings of LoRA."""

    rank: int = Field(16, ge=1, le=1024)
    """Inner width of the two matrices: what the adapter can hold. 8 for a label task, 64 for new knowledge."""
    alpha: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Strength of the adapter; it is scaled by alpha / rank. auto is 2 x rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped while training; slower, and seldom worth it above 1,000 rows."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that high ranks keep their strength (arXiv 2312.03732)."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Linears that get an adapter: all of every block, or names such as q_proj, or patterns such as *.layers.1?.mlp.*."""
    rate_ratio: float = Field(1.0, gt=0, le=256)
    """LoRA+: the second matrix learns so many times faster than the first (arXiv 2402.12354); 16 is its authors' advice."""
    dora: bool = False
    """DoRA: the length of each output's weights learns apart from their direction (arXiv 2402.09353); slower, better at low ranks."""
    begin: Literal["random", "pissa"] = "random"
    """pissa: begin as the strongest directions of each weight (arXiv 2404.02948); learns faster, on disk twice the rank."""
    ranks: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field({})
    """Other ranks for some linears, by name or pattern, e.g. {v_proj: 32, "*.layers.0.*": 4}; the first that fits counts."""

    @model_validator(mode="after")
    def _one_variant(self) -> Options:
        if self.dora and self.begin == "pissa":
            raise ValueError("dora and begin=pissa change the same weights: take one of them")
        return self

    def size(self, path: str) -> Size:
        """Rank and alpha at the linear `path`."""
        rank = next((rank for entry, rank in self.ranks.items() if names(entry, path)), self.rank)
        return Size(rank, 2.0 * rank if self.alpha == "auto" else self.alpha)


Delta = LowRank | Dora | Anchored


class Method(_hosted.Hosted):
    """LoRA in slots."""

    supports = frozenset({"merge", "packed", "swap", "peft", "trees", "fused", "begins-as-base", "strength", "combine", "batch"})
    needs = frozenset({"linears"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = o = options or Options()
        if o.dora:
            self.supports = self.supports - {"fused", "combine", "batch"}
        if o.begin == "pissa":
            self.supports = self.supports - {"fused", "combine", "batch"}

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Place an adapter beside every target and let only it move. The model answers as before.

        Raises:
            SpecError: a target names no linear of the blocks, or a rank is larger than the weight allows.
        """
        o, linears = self.options, model.linears()
        chosen = targets(linears, o.targets)
        for entry in o.ranks:
            targets(chosen, [entry], setting="ranks")
        for path in chosen:
            low = self._low_rank(linears[path], o.size(path))
            low.begin(seed=seed, path=path)
            slot.place(model.network, path).host(name, self._variant(linears[path], low, seed=seed, path=path))
        self._take_over(model, name)

    def _low_rank(self, linear: nn.Module, size: Size) -> LowRank:
        return LowRank(linear, rank=size.rank, alpha=size.alpha, dropout=self.options.dropout, rslora=self.options.rslora)

    def _variant(self, linear: nn.Module, low: LowRank, *, seed: int, path: str) -> Delta:
        if self.options.dora:
            return Dora(linear, low)
        if self.options.begin == "random":
            return low
        if low.rank > min(shape(linear)):
            what = f"{path} has {min(shape(linear))} directions, fewer than rank {low.rank}."
            raise SpecError(what, remedy="Lower method.rank, or take begin=random.", code="bad_value")
        return Anchored(linear, low, seed=seed, path=path)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """The first matrices, the second ones at `rate_ratio` times the learning rate, and DoRA's lengths."""
        sorted_out: dict[str, list[tuple[str, nn.Parameter]]] = {"A": [], "B": [], "magnitude": []}
        for path, delta in self.deltas(model).items():
            for part, parameter in cast(Delta, delta).parts().items():
                kind = "magnitude" if part == "lora_magnitude_vector" else part[5]
                sorted_out[kind].append((f"{path}.{part}", parameter))
        groups = [
            ParameterGroup("lora.A", sorted_out["A"], decay=True),
            ParameterGroup("lora.B", sorted_out["B"], rate=self.options.rate_ratio, decay=True),
            ParameterGroup("lora.magnitude", sorted_out["magnitude"]),
        ]
        return [group for group in groups if group.parameters]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {name: p for group in self.groups(model) for name, p in group.parameters}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` in the PEFT layout, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        sizes: dict[str, Size] = {}
        for path, delta in self.deltas(model).items():
            parts, alpha = cast(Delta, delta).saved()
            sizes[path] = Size(len(parts["lora_A.weight"]), alpha)
            tensors |= {f"{path}.{part}": tensor for part, tensor in parts.items()}
        common = Counter(sizes.values()).most_common(1)[0][0]
        o = self.options
        _lora_files.write(Adapter(common, sizes, o.dropout, o.rslora, o.dora, tensors), model, folder)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach an adapter from disk, ours or one written by peft.

        Raises:
            ModelError: it is not a LoRA adapter for this model, or uses a feature Luthier does not compute.
        """
        adapter = _lora_files.read(folder)
        linears = model.linears()
        _peft.is_strange(adapter.sizes, linears, model, folder)
        method = cls(_options(adapter, linears))
        for path, size in adapter.sizes.items():
            low = method._low_rank(linears[path], size)
            slot.place(model.network, path).host(name, Dora(linears[path], low) if adapter.dora else low)
        method._take_over(model, name)
        method.load_state(model, adapter.tensors)
        return method

    def merge(self, model: Model) -> None:
        """Fold every adapter into its linear and take the slots out; a packed base is unpacked for it.

        Raises:
            ModelError: the slots host another method's deltas too.
        """
        _hosted.merge(model, self.name)


def _options(adapter: Adapter, linears: dict[str, nn.Module]) -> Options:
    every = adapter.sizes.keys() == linears.keys()
    return Options(
        rank=adapter.common.rank,
        alpha=adapter.common.alpha,
        dropout=adapter.dropout,
        rslora=adapter.rslora,
        targets="all-linear" if every else sorted(adapter.sizes),
        dora=adapter.dora,
        ranks={path: size.rank for path, size in adapter.sizes.items() if size.rank != adapter.common.rank},
    )
