"""Bottleneck adapters: small networks with a narrow middle behind the parts of every block (Houlsby and others, arXiv 1902.00751).

They bend, so they hold what no product of matrices holds, and cannot fold into a weight: a tuned model stays a little slower. PEFT has
none; the files have its two names and a layout of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from luthier.core.errors import SpecError
from luthier.core.spec import Strict
from luthier.methods import _hosted, _peft
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import dice, shape
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.roles import role

KIND = "BOTTLENECK"
"""What the config calls itself; no library knows it."""

BEHIND = {"houlsby": ("attention_out", "mlp_out"), "pfeiffer": ("mlp_out",)}
"""Roles of the linears an adapter stands behind."""


class Options(Strict):
    """Settings of bottleneck adapters."""

    width: int = Field(64, ge=1, le=16384)
    """Numbers in the narrow middle; Houlsby's best lay between 8 and 256, the harder the task the wider (section 3.2)."""
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: behind attention and behind the MLP of every block; pfeiffer: behind the MLP only (arXiv 2005.00247), half as many."""


class Bottleneck(nn.Module):
    """``y = b + U f(D b + d) + u`` for ``b = base(x)``, f = relu (section 2.1, figure 2). `U` and `u` begin as zeros: nothing changes.

    Attributes:
        strength: 1 is as trained, 0 is the base.
    """

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.strength = 1.0
        self.down, self.down_bias = nn.Parameter(torch.zeros(width, size, device=device)), nn.Parameter(torch.zeros(width, device=device))
        self.up, self.up_bias = nn.Parameter(torch.zeros(size, width, device=device)), nn.Parameter(torch.zeros(size, device=device))

    @torch.no_grad()
    def begin(self, *, seed: int, path: str) -> None:
        """Draw `D` as nn.Linear begins, from `seed` and the module's path."""
        bound = self.down.shape[1] ** -0.5
        self.down.copy_((torch.rand(self.down.shape, generator=dice(seed, path)) * 2 - 1) * bound)

    @staticmethod
    def blended(parts: list[tuple[Bottleneck, float]], how: str) -> Bottleneck:
        """Several as one: side by side exactly their weighted sum, added up an average of their weights."""
        deltas, size = [delta for delta, _ in parts], len(parts[0][0].up_bias)
        scales = [weight * delta.strength for delta, weight in parts]
        if how == "sum" and len({len(delta.down) for delta in deltas}) > 1:
            raise ValueError("adapters of different width cannot be added.")
        width = sum(len(delta.down) for delta in deltas) if how == "concatenation" else len(deltas[0].down)
        whole = Bottleneck(size, width, deltas[0].down.device)
        joined = {
            name: [
                getattr(delta, name) * (scale if how == "sum" or name in ("up", "up_bias") else 1)
                for delta, scale in zip(deltas, scales, strict=True)
            ]
            for name in ("down", "down_bias", "up", "up_bias")
        }
        for name, tensors in joined.items():
            side_by_side = how == "concatenation" and name != "up_bias"
            whole.get_parameter(name).copy_(torch.cat(tensors, dim=int(name == "up")) if side_by_side else torch.stack(tensors).sum(0))
        return whole

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """What `base` gives, bent; the arithmetic runs in the dtype of `x`."""
        y: Tensor = base(x)
        h = F.relu(F.linear(y, self.down.to(y.dtype), self.down_bias.to(y.dtype)))
        return y + self.strength * F.linear(h, self.up.to(y.dtype), self.up_bias.to(y.dtype))


class Method(_hosted.Hosted):
    """Small networks behind the parts of every block."""

    supports = frozenset({"packed", "swap", "trees", "begins-as-base", "strength", "combine"})
    needs = frozenset({"linears"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Place adapters and let only them move. The model answers as before.

        Raises:
            SpecError: the blocks have no part an adapter could stand behind.
        """
        paths = [path for path in model.linears() if role(path) in BEHIND[self.options.placement]]
        if not paths:
            what = f"It is not known which linears of {model.name} hand on to the stream of states."
            raise SpecError(what, remedy="Take method lora, or name them in models/roles.py.", code="targets")
        for path, delta in self._host(model, name, dict.fromkeys(paths, self.options.width)).items():
            delta.begin(seed=seed, path=path)

    def _host(self, model: Model, name: str, widths: dict[str, int]) -> dict[str, Bottleneck]:
        linears = model.linears()
        for path, width in widths.items():
            slot.place(model.network, path).host(name, Bottleneck(shape(linears[path])[0], width, model.device))
        self._take_over(model, name)
        return self.deltas(model)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Matrices decay, biases do not."""
        parameters = self._parameters(model)
        matrices = [(name, p) for name, p in parameters.items() if p.ndim == 2]
        vectors = [(name, p) for name, p in parameters.items() if p.ndim == 1]
        return [ParameterGroup("bottleneck.matrices", matrices, decay=True), ParameterGroup("bottleneck.vectors", vectors)]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {f"{path}.{name}": p for path, delta in self.deltas(model).items() for name, p in delta.named_parameters()}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, whole or not at all; other libraries do not read them."""
        width = max(len(delta.down) for delta in self.deltas(model).values())
        config = {"peft_type": KIND, "width": width, "placement": self.options.placement}
        _peft.write(folder, model, config=config, tensors=dict(self._parameters(model)))

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach adapters from disk.

        Raises:
            ModelError: they are not bottleneck adapters for this model.
        """
        config, tensors = _peft.read(folder, KIND, needs=("width", "placement"))
        widths = {key.removesuffix(".down"): len(tensor) for key, tensor in tensors.items() if key.endswith(".down")}
        _peft.is_strange(widths, model.linears(), model, folder)
        method = cls(Options(width=config["width"], placement=config["placement"]))
        method._host(model, name, widths)
        method.load_state(model, tensors)
        return method
