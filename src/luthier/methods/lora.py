"""LoRA: the weights stand still, and beside each linear a product of two thin matrices learns (arXiv 2106.09685).

About 1 % of the weights move at rank 16; the result is a file of a few megabytes that PEFT, vLLM and others load, and the base can
be asked at any time. The formula is in ``_lowrank.py``, the layout on disk in ``_peft.py``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.core.errors import ModelError, SpecError, did_you_mean
from luthier.core.spec import Auto, Strict
from luthier.methods import _peft
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import LowRank
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.quantize import unpack


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

    @property
    def strength(self) -> float:
        """`alpha` as a number."""
        return 2.0 * self.rank if self.alpha == "auto" else self.alpha


class Method:
    """LoRA in slots."""

    supports = frozenset({"merge", "packed", "swap", "peft"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.name = ""

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Place an adapter beside every target and let only it move. The model answers as before.

        Raises:
            SpecError: a target names no linear of the blocks.
        """
        o = self.options
        linears = model.linears()
        for path in targets(linears, o.targets):
            delta = LowRank(linears[path], rank=o.rank, alpha=o.strength, dropout=o.dropout, rslora=o.rslora)
            delta.begin(seed=seed, path=path)
            slot.place(model.network, path).host(name, delta)
        self._take_over(model, name)

    def _take_over(self, model: Model, name: str) -> None:
        """Only the deltas called `name` train, and they answer."""
        self.name = name
        model.network.requires_grad_(False)
        for delta in self.deltas(model).values():
            delta.requires_grad_(True)
        slot.activate(model.network, name)

    def deltas(self, model: Model) -> dict[str, LowRank]:
        """This method's deltas by the path of their linear."""
        hosted = {path: place.delta(self.name) for path, place in slot.slots(model.network).items()}
        return {path: cast(LowRank, delta) for path, delta in hosted.items() if delta is not None}

    def groups(self, model: Model) -> list[ParameterGroup]:
        """The first matrices, and the second ones at `rate_ratio` times the learning rate."""
        first = [(f"{path}.lora_A.weight", d.A) for path, d in self.deltas(model).items()]
        second = [(f"{path}.lora_B.weight", d.B) for path, d in self.deltas(model).items()]
        return [ParameterGroup("lora.A", first, decay=True), ParameterGroup("lora.B", second, rate=self.options.rate_ratio, decay=True)]

    def state(self, model: Model) -> dict[str, Tensor]:
        """Both matrices of every adapter, fp32. Views, not copies."""
        return {name: p.detach() for name, p in self._parameters(model).items()}

    @torch.no_grad()
    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        parameters = self._parameters(model)
        for name in sorted(parameters.keys() | state.keys()):
            if name not in parameters or name not in state or parameters[name].shape != state[name].shape:
                raise ModelError(f"{name} does not fit.", remedy="It was saved from another model, rank or list of targets.", code="state")
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {name: p for group in self.groups(model) for name, p in group.parameters}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` in the PEFT layout, whole or not at all."""
        sizes = {path: _peft.Size(d.rank, d.alpha) for path, d in self.deltas(model).items()}
        common = _peft.Size(self.options.rank, self.options.strength)
        adapter = _peft.Adapter(common, sizes, self.options.dropout, self.options.rslora, self.state(model))
        _peft.write(adapter, model, folder)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach an adapter from disk, ours or one written by peft.

        Raises:
            ModelError: it is not a LoRA adapter for this model, or uses a feature Luthier does not compute.
        """
        adapter = _peft.read(folder)
        linears = model.linears()
        strangers = sorted(adapter.sizes.keys() - linears.keys())
        if strangers:
            raise ModelError(
                f"The adapter changes {strangers[0]}, which is not a linear in a block of {model.name}.",
                where=str(folder),
                remedy="Load it on the base it was tuned on; adapters on embedding or head are not computed.",
                code="adapter",
            )
        method = cls(_options(adapter, linears))
        for path, size in adapter.sizes.items():
            delta = LowRank(linears[path], rank=size.rank, alpha=size.alpha, dropout=adapter.dropout, rslora=adapter.rslora)
            slot.place(model.network, path).host(name, delta)
        method._take_over(model, name)
        method.load_state(model, adapter.tensors)
        return method

    @torch.no_grad()
    def merge(self, model: Model) -> None:
        """Fold every adapter into its linear and take the slots out; a packed base is unpacked for it.

        Raises:
            ModelError: the slots host another method's deltas too.
        """
        for path, place in slot.slots(model.network).items():
            if set(place.deltas) - {slot.key(self.name)}:
                raise ModelError(
                    f"{path} hosts another adapter besides {self.name!r}.", remedy="Merge into a model that hosts one.", code="adapter"
                )
        unpack(model.network)
        for place in slot.slots(model.network).values():
            delta = cast(LowRank, place.delta(self.name))
            cast(Tensor, place.base.weight).data = delta.merged(place.base)
        slot.restore(model.network)

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]:
        """Answers of this adapter, or of the base, for a while."""
        return slot.answering(model.network, self.name if on else None)


def targets(linears: dict[str, nn.Module], wanted: Literal["all-linear"] | list[str]) -> list[str]:
    """Paths of the linears that `wanted` names, in the network's order.

    Raises:
        SpecError: an entry names none.
    """
    if wanted == "all-linear":
        return list(linears)
    for entry in wanted:
        if not any(_names(entry, path) for path in linears):
            known = {path.rpartition(".")[2] for path in linears}
            raise SpecError(
                f"method.targets: no linear of the blocks is called {entry!r}.", remedy=did_you_mean(entry, known), code="targets"
            )
    return [path for path in linears if any(_names(entry, path) for entry in wanted)]


def _names(entry: str, path: str) -> bool:
    return path == entry or path.endswith(f".{entry}") or ("*" in entry and fnmatchcase(path, entry))


def _options(adapter: _peft.Adapter, linears: dict[str, nn.Module]) -> Options:
    every = adapter.sizes.keys() == linears.keys()
    return Options(
        rank=adapter.common.rank,
        alpha=adapter.common.alpha,
        dropout=adapter.dropout,
        rslora=adapter.rslora,
        targets="all-linear" if every else sorted(adapter.sizes),
    )
