"""Prompt tuning: vectors learn that stand before every row in the place of tokens; nothing else moves (arXiv 2104.08691).

The least that can be learned: V x D numbers, some kilobytes on disk. Weak on small bases, close to full tuning from ten billion weights
on (figure 1). Every row is read behind the vectors, which costs their length in context and time. In a forest they are the root of
every tree.
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
from luthier.models.lead import memories_of
from luthier.models.model import Model
from luthier.models.sight import Memory

_NO_MATTER = frozenset({"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"})


class Options(Strict):
    """Settings of prompt tuning."""

    tokens: int = Field(20, ge=1, le=4096)
    """Vectors before every row; 20 to 100 are usual (arXiv 2104.08691, figure 3). They take as many tokens of the model's context."""
    begin: str = ""
    """Text whose tokens the vectors begin as, repeated to fill, e.g. the labels of the task; left out, tokens drawn from the vocabulary."""


class Vectors(nn.Module):
    """``[P; X]``: P ``[V, D]`` stands before the embedded row X (section 2). A lead (``models/lead.py``); the embedding stays as it is."""

    def __init__(self, count: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.zeros(count, width, device=device))
        self._kept: tuple[Tensor, list[Memory]] | None = None

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The embedding's own answer: the vectors are laid by `Model.states`."""
        return cast(Tensor, base(x))

    @staticmethod
    def blended(parts: list[tuple[Vectors, float]], how: str) -> Vectors:
        """Several as one (``_blend.py``)."""
        P = _leads.blended([(delta.P, weight) for delta, weight in parts], how)
        whole = Vectors(P.shape[0], P.shape[1], P.device)
        whole.P.copy_(P)
        return whole

    @property
    def count(self) -> int:
        """V."""
        return len(self.P)

    def vectors(self, model: Model) -> Tensor:
        """P, as a network takes it."""
        return self.P.to(model.dtype)

    def memories(self, model: Model) -> list[Memory]:
        """What rows see of P in every layer: P sees only itself, so it is computed once for all rows, until it changes."""
        if self._kept is None or not torch.equal(self._kept[0], self.P):
            self._kept = self.P.detach().clone(), memories_of(model, vectors_VD=self.vectors(model))
        return self._kept[1]


class Method(_leads.Led):
    """Learned vectors before every row."""

    supports = frozenset({"packed", "swap", "peft", "trees", "fused", "combine"})
    needs = frozenset({"embedding"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Lay vectors before every row and let only them move. Answers change at once: the row now has a beginning.

        Raises:
            SpecError: they leave no room for rows, or `begin` has no tokens.
        """
        o = self.options
        delta = self._host(model, name, o.tokens)
        with torch.no_grad():
            delta.P.copy_(model.embedding().weight[_leads.first_tokens(model, o.begin, o.tokens, seed=seed)])

    def _host(self, model: Model, name: str, count: int) -> Vectors:
        delta = Vectors(count, model.embedding().embedding_dim, model.device)
        self._place(model, name, delta, count=count)
        return delta

    def _delta(self, model: Model) -> Vectors:
        return cast(Vectors, next(iter(self.deltas(model).values())))

    def groups(self, model: Model) -> list[ParameterGroup]:
        """The vectors."""
        return [ParameterGroup("prompt.vectors", list(self._parameters(model).items()))]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        return {"prompt_embeddings": self._delta(model).P}

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` in the PEFT layout, whole or not at all."""
        rows = self._delta(model).P
        more: dict[str, Any] = {"prompt_tuning_init": "RANDOM"}
        _leads.write(model, folder, kind="PROMPT_TUNING", rows_VX=rows, width=rows.shape[1], **more)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach vectors from disk, ours or written by peft.

        Raises:
            ModelError: they are not prompt tuning for a model of this width.
        """
        rows = _leads.read(model, folder, kind="PROMPT_TUNING", width=lambda m: m.embedding().embedding_dim, ignores=_NO_MATTER)
        method = cls(Options(tokens=len(rows)))
        method._host(model, name, len(rows))
        method.load_state(model, {"prompt_embeddings": rows})
        return method
