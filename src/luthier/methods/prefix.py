"""Prefix tuning: in every layer, keys and values learn that every token sees; nothing else moves (Li and Liang, arXiv 2101.00190).

More can be said than with a prompt, as it is said in every layer anew: 2 V K W numbers in each. Every node of a forest sees the prefix. On
disk it is PEFT's layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.core.spec import Strict
from luthier.methods import _leads
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import dice
from luthier.models.lead import memories_of
from luthier.models.model import Model
from luthier.models.sight import Memory

_NO_MATTER = frozenset({"encoder_hidden_size", "prefix_projection", "init_weights"})
"""How a prefix was parametrised while it learned: on disk it is always the keys and values themselves."""


class Options(Strict):
    """Settings of prefix tuning."""

    tokens: int = Field(20, ge=1, le=4096)
    """Keys and values before every row, in each layer; 10 for a table, 200 for a summary (arXiv 2101.00190, figure 4)."""
    begin: str = ""
    """Text whose keys and values the prefix begins as, repeated to fill; left out, tokens drawn from the vocabulary (section 7.4)."""
    projection: int = Field(0, ge=0, le=65536)
    """Width of the network that makes the prefix while it learns (section 4.3); 0 learns keys and values themselves, from real ones."""


class Prefix(nn.Module):
    """``[K_p; K]`` and ``[V_p; V]`` in every layer (eq. 3). A lead (``models/lead.py``); the embedding it stands at stays as it is.

    ``rows_VX`` holds, for each of V tokens, keys then values of each layer: X = 2 L K W numbers. With a projection (section 4.3) they are
    ``W2 tanh(W1 E + b1) + b2``.

    Args:
        shape: layers, key-value heads, and width of a head.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], device: torch.device, *, hidden: int = 0) -> None:
        super().__init__()
        layers, heads, width = self.shape = shape
        self._count, wide = count, 2 * layers * heads * width
        self.E = nn.Parameter(torch.zeros(count, heads * width if hidden else wide, device=device))
        self.project = (
            nn.Sequential(nn.Linear(heads * width, hidden), nn.Tanh(), nn.Linear(hidden, wide)).to(device) if hidden else nn.Identity()
        )

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The embedding's own answer: the prefix is laid by `Model.states`."""
        return cast(Tensor, base(x))

    @staticmethod
    def blended(parts: list[tuple[Prefix, float]], how: str) -> Prefix:
        """Several as one (``_blend.py``)."""
        rows = _leads.blended([(delta.rows(), weight) for delta, weight in parts], how)
        whole = Prefix(len(rows), parts[0][0].shape, rows.device)
        whole.E.copy_(rows)
        return whole

    @property
    def count(self) -> int:
        """V."""
        return self._count

    def rows(self) -> Tensor:
        """``[V, X]``, as PEFT lays them."""
        return cast(Tensor, self.project(self.E))

    def vectors(self, model: Model) -> None:
        """There are none: keys and values are laid."""
        return None

    def memories(self, model: Model) -> list[Memory]:
        """Keys and values of every layer, ``[K, V, W]`` each."""
        layers, heads, width = self.shape
        each = self.rows().to(model.dtype).view(self.count, 2 * layers, heads, width).permute(1, 2, 0, 3)
        return [Memory(each[2 * layer], each[2 * layer + 1]) for layer in range(layers)]

    @torch.no_grad()
    def begin(self, memories: list[Memory]) -> None:
        """Take over real keys and values; only without a projection."""
        each = torch.stack([part for memory in memories for part in (memory.keys, memory.values)])
        self.E.copy_(each.permute(2, 0, 1, 3).reshape(self.count, -1))

    @torch.no_grad()
    def draw(self, dice: torch.Generator) -> None:
        """Draw a projection as nn.Linear and nn.Embedding begin: uniform in +-1/sqrt(inputs), and standard normal."""
        self.E.copy_(torch.randn(self.E.shape, generator=dice))
        for linear in (module for module in self.project.modules() if isinstance(module, nn.Linear)):
            for parameter in (linear.weight, linear.bias):
                bound = linear.in_features**-0.5
                parameter.copy_((torch.rand(parameter.shape, generator=dice) * 2 - 1) * bound)


class Method(_leads.Led):
    """Learned keys and values before every row."""

    supports = frozenset({"packed", "swap", "peft", "trees", "combine"})
    needs = frozenset({"attention"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Lay keys and values before every row and let only them move. Answers change at once: rows now see something before them.

        Raises:
            SpecError: they leave no room for rows, or `begin` has no tokens.
        """
        o = self.options
        delta = self._host(model, name, o.tokens, hidden=o.projection)
        if model.device.type == "meta":
            return
        if o.projection:
            delta.draw(dice(seed, "prefix"))
        else:
            delta.begin(memories_of(model, tokens_V=_leads.first_tokens(model, o.begin, o.tokens, seed=seed)))

    def _host(self, model: Model, name: str, count: int, *, hidden: int = 0) -> Prefix:
        delta = Prefix(count, _leads.shape_of(model), model.device, hidden=hidden)
        self._place(model, name, delta, count=count)
        return delta

    def _delta(self, model: Model) -> Prefix:
        return cast(Prefix, next(iter(self.deltas(model).values())))

    def groups(self, model: Model) -> list[ParameterGroup]:
        """The prefix, and what makes it."""
        return [ParameterGroup("prefix", list(self._parameters(model).items()))]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        delta = self._delta(model)
        return {"prompt_embeddings": delta.E, **{f"projection.{name}": p for name, p in delta.project.named_parameters()}}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` in the PEFT layout, whole or not at all: keys and values themselves."""
        _, heads, width = _leads.shape_of(model)
        more: dict[str, Any] = {"prefix_projection": False, "encoder_hidden_size": None}
        rows = self._delta(model).rows()
        _leads.write(model, folder, kind="PREFIX_TUNING", rows_VX=rows, width=heads * width, **more)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach a prefix from disk, ours or written by peft.

        Raises:
            ModelError: it is not prefix tuning for a model of this shape.
        """
        rows = _leads.read(model, folder, kind="PREFIX_TUNING", width=_wide, ignores=_NO_MATTER)
        method = cls(Options(tokens=len(rows)))
        method._host(model, name, len(rows))
        method.load_state(model, {"prompt_embeddings": rows})
        return method


def _wide(model: Model) -> int:
    layers, heads, width = _leads.shape_of(model)
    return 2 * layers * heads * width
