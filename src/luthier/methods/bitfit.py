"""BitFit: only biases move (Ben Zaken and others, arXiv 2106.10199).

Some hundredths of a percent of the weights. Where a base has no biases - Llama and most decoders since - there is nothing to move, and
`added` gives every linear of the blocks one to learn.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError, SpecError
from luthier.core.spec import Strict
from luthier.methods import _hosted, _peft
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import shape
from luthier.models import slot
from luthier.models.model import Model

KIND = "BITFIT"
"""What the config calls itself; no library knows it."""


class Options(Strict):
    """Settings of BitFit."""

    added: bool = False
    """Give linears of the blocks that have no bias one to learn; the result cannot be merged into a network that has no place for it."""


class Shift(nn.Module):
    """``y = base(x) + c``: what a change `c` of the bias does (section 3, eq. 1 to 5, where b becomes b + c). `c` begins as zeros.

    Attributes:
        strength: 1 is as trained, 0 is the base.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.strength = 1.0
        self.change = nn.Parameter(torch.zeros(size, device=device))

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The shifted output; the sum is taken in fp32 and rounded once."""
        y: Tensor = base(x)
        return (y + self.strength * self.change).to(y.dtype)

    @staticmethod
    def blended(parts: list[tuple[Shift, float]], how: str) -> Shift:
        """Several as one: ``sum w c``."""
        if how != "sum":
            raise ValueError("biases have no side by side.")
        whole = Shift(len(parts[0][0].change), parts[0][0].change.device)
        whole.change.copy_(torch.stack([weight * delta.strength * delta.change for delta, weight in parts]).sum(0))
        return whole

    def merge_into(self, base: nn.Module) -> None:
        """Add the change to the bias itself."""
        _hosted.add_to_bias(base, self.strength * self.change)


class Method(_hosted.Hosted):
    """Learned biases."""

    supports = frozenset({"merge", "packed", "swap", "trees", "begins-as-base", "strength", "combine"})
    needs = frozenset({"biases"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        if self.options.added:
            self.supports, self.needs = self.supports - {"merge"}, frozenset({"linears"})

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Let every bias of the network move, and nothing else. The model answers as before, and nothing is random.

        Raises:
            SpecError: the network has no bias.
        """
        places = biased(model)
        if self.options.added:
            places |= {path: shape(linear)[0] for path, linear in model.linears().items()}
        if not places:
            raise SpecError(
                f"{model.name} has no biases, so there is nothing to move.",
                remedy="Set method.added=true, or take method ia3, which moves about as little.",
                code="no_bias",
            )
        self._host(model, name, places)

    def _host(self, model: Model, name: str, places: dict[str, int]) -> None:
        for path, size in places.items():
            slot.place(model.network, path).host(name, Shift(size, model.device))
        self._take_over(model, name)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """All biases alike; they do not decay."""
        return [ParameterGroup("bitfit", list(self._parameters(model).items()))]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {f"{path}.bias": delta.change for path, delta in self.deltas(model).items()}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, whole or not at all; other libraries do not read them."""
        _peft.write(folder, model, config={"peft_type": KIND, "added": self.options.added}, tensors=dict(self._parameters(model)))

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach changes from disk.

        Raises:
            ModelError: they are not changes of this model's biases.
        """
        config, tensors = _peft.read(folder, KIND, reads=("added",))
        sizes = {key.removesuffix(".bias"): len(tensor) for key, tensor in tensors.items()}
        _peft.is_strange(sizes, {**biased(model), **model.linears()}, model, folder)
        method = cls(Options(added=bool(config.get("added"))))
        method._host(model, name, sizes)
        method.load_state(model, tensors)
        return method

    def merge(self, model: Model) -> None:
        """Fold every change into its bias and take the slots out; a packed base is unpacked for it.

        Raises:
            ModelError: the slots host another method's deltas too, or a linear has no bias.
        """
        for path, place in slot.slots(model.network).items():
            if place.base.bias is None:
                raise ModelError(
                    f"The bias learned for {path} has no place in this network, whose linears have none.",
                    remedy="Serve it as an adapter, or take method lora.",
                    code="no_merge",
                )
        _hosted.merge(model, self.name)


def biased(model: Model) -> dict[str, int]:
    """Every module with a bias, seen through slots, and the length of its bias. Convolutions, whose channels lie elsewhere, stay."""
    found = {}
    for path, module in model.network.named_modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and not isinstance(module, slot.Slot | nn.Conv1d | nn.Conv2d):
            found[path.removesuffix(".base")] = len(bias)
    return found
