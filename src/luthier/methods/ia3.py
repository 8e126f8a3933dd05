"""(IA)3: keys, values and the inner states of the MLP are stretched by learned vectors; no matrix moves (Liu and others, arXiv 2205.05638).

Some ten thousand numbers on a small base. The vectors multiply, so they fold into the weights, and a merged model costs nothing more.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.core.spec import Strict
from luthier.methods import _hosted, _peft
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import laid, shape
from luthier.methods._targets import targets
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.roles import role


class Options(Strict):
    """Settings of (IA)3."""

    outputs: Literal["auto"] | list[str] = "auto"
    """Linears whose output is stretched: names or patterns; auto is keys and values (with the queries where all are one matrix)."""
    inputs: Literal["auto"] | list[str] = "auto"
    """Linears whose input is stretched; auto is the one that leaves the MLP."""


class Stretch(nn.Module):
    """``y = l * (W x + b)``, or ``y = W (l * x) + b`` where the input is stretched (section 3.3, eq. 1 and after). ``l`` begins as ones.

    Attributes:
        strength: 1 is as trained, 0 is the base: the vector is ``1 + strength (l - 1)``.
    """

    def __init__(self, base: nn.Module, *, inputs: bool) -> None:
        super().__init__()
        self.inputs, self.strength = inputs, 1.0
        outputs, incoming = shape(base)
        self.vector = nn.Parameter(torch.ones(incoming if inputs else outputs, device=cast(Tensor, base.weight).device))

    def now(self) -> Tensor:
        """The vector at the present strength."""
        return 1 + self.strength * (self.vector - 1)

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The stretched output; the product is taken in fp32 and rounded once."""
        if self.inputs:
            return cast(Tensor, base((x * self.now()).to(x.dtype)))
        y: Tensor = base(x)
        return (y * self.now()).to(y.dtype)

    @staticmethod
    def blended(parts: list[tuple[Stretch, float]], how: str) -> Stretch:
        """Several as one: ``1 + sum w (l - 1)``."""
        if how != "sum":
            raise ValueError("vectors have no side by side.")
        whole = copy.deepcopy(parts[0][0])
        whole.strength = 1.0
        whole.vector.copy_(1 + torch.stack([weight * (delta.now() - 1) for delta, weight in parts]).sum(0))
        return whole

    def merge_into(self, base: nn.Module) -> None:
        """Stretch rows, or columns, of the weight itself, and the bias with its output."""
        weight, bias, vector = cast(Tensor, base.weight), cast("Tensor | None", base.bias), self.now()
        stretch_OI = vector[None, :] if self.inputs else vector[:, None]
        weight.data = (weight.float() * laid(stretch_OI, base)).to(weight.dtype)
        if bias is not None and not self.inputs:
            bias.data = (bias.float() * vector).to(bias.dtype)


class Method(_hosted.Hosted):
    """Learned stretching."""

    supports = frozenset({"merge", "packed", "swap", "peft", "trees", "begins-as-base", "strength", "combine"})
    needs = frozenset({"linears"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Place a vector at every target and let only it move. The model answers as before, and nothing is random.

        Raises:
            SpecError: a target names no linear of the blocks.
        """
        linears = model.linears()
        outputs, inputs = self._chosen(list(linears))
        self._host(model, name, outputs, inputs)

    def _chosen(self, paths: list[str]) -> tuple[list[str], list[str]]:
        o, parts = self.options, {path: (role(path) or "").split("+") for path in paths}
        outputs = [path for path in paths if {"key", "value"} & set(parts[path])]
        inputs = [path for path in paths if "mlp_out" in parts[path]]
        outputs = outputs if o.outputs == "auto" else targets(paths, o.outputs, setting="outputs")
        inputs = inputs if o.inputs == "auto" else targets(paths, o.inputs, setting="inputs")
        return [path for path in outputs if path not in inputs], inputs

    def _host(self, model: Model, name: str, outputs: list[str], inputs: list[str]) -> None:
        linears = model.linears()
        for path in [*outputs, *inputs]:
            slot.place(model.network, path).host(name, Stretch(linears[path], inputs=path in inputs))
        self._take_over(model, name)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """All vectors alike."""
        return [ParameterGroup("ia3", list(self._parameters(model).items()))]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {f"{path}.ia3_l": delta.vector for path, delta in self.deltas(model).items()}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` in the PEFT layout, whole or not at all."""
        deltas, linears = self.deltas(model), model.linears()
        stretched = [path for path, delta in deltas.items() if delta.inputs]
        config = {
            "peft_type": "IA3",
            "target_modules": (all_short := _peft.shortest(deltas, model)),
            "feedforward_modules": short if set(short := _peft.shortest(stretched, model)) <= set(all_short) else stretched,
            "fan_in_fan_out": {isinstance(linears[path], Conv1D) for path in deltas} == {True},
            "init_ia3_weights": True,
            "modules_to_save": None,
        }
        laid_out = {path: delta.vector[None, :] if delta.inputs else delta.vector[:, None] for path, delta in deltas.items()}
        tensors = {f"{_peft.PREFIX}{path}.ia3_l": vector for path, vector in laid_out.items()}
        _peft.write(folder, model, config=config, tensors=tensors)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach vectors from disk, ours or written by peft. Whether a linear's input is stretched is told by the shape of its vector.

        Raises:
            ModelError: they are not (IA)3 for this model.
        """
        _, tensors = _peft.read(folder, "IA3", reads=("feedforward_modules",), ignores=("init_ia3_weights",))
        odd = [key for key in tensors if not key.endswith(".ia3_l")]
        if odd or not tensors:
            raise _peft.not_part(odd, "plain (IA)3", folder)
        vectors = {key.removesuffix(".ia3_l"): tensor for key, tensor in tensors.items()}
        _peft.is_strange(vectors, model.linears(), model, folder)
        inputs = [path for path, tensor in vectors.items() if tensor.shape[0] == 1]
        outputs = [path for path in vectors if path not in inputs]
        method = cls(Options(outputs=outputs, inputs=inputs))
        method._host(model, name, outputs, inputs)
        method.load_state(model, {key: tensor.flatten() for key, tensor in tensors.items()})
        return method

    def merge(self, model: Model) -> None:
        """Fold every vector into its linear and take the slots out; a packed base is unpacked for it.

        Raises:
            ModelError: the slots host another method's deltas too.
        """
        _hosted.merge(model, self.name)
