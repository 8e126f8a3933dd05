"""What prompt and prefix tuning have in common: a delta around the embedding, the tokens it begins as, PEFT's files.

V tokens of lead, D width of a state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import SpecError
from luthier.methods import _hosted, _peft
from luthier.methods._lowrank import dice
from luthier.models import slot
from luthier.models.lead import leave_room, memories_of
from luthier.models.model import Model

_NO_MATTER = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"})
"""Shapes, which the tensor itself says."""


class Led(_hosted.Hosted):
    """A method whose one delta is a lead, of ``options.tokens`` tokens."""

    options: Any

    def _place(self, model: Model, name: str, delta: nn.Module, *, count: int) -> None:
        place(model, name, delta, count=count)
        self._take_over(model, name)

    def occupies(self) -> int:
        """Tokens of the context that are not for rows."""
        return int(self.options.tokens)


def place(model: Model, name: str, delta: nn.Module, *, count: int) -> None:
    """Host a lead of `count` tokens around the embedding.

    Raises:
        SpecError: it would leave no room for rows.
    """
    longest = model.family.context(model.config)
    if count >= longest:
        what = f"method.tokens = {count}, but the model reads {longest} tokens in all."
        raise SpecError(what, remedy=f"Choose fewer; {longest // 8} leave room for rows.", code="bad_value")
    leave_room(model, count)
    slot.place(model.network, embedding_path(model)).host(name, delta)


def embedding_path(model: Model) -> str:
    """Where the embedding is in the network."""
    embedding = model.embedding()
    path: str = next(path for path, module in model.network.named_modules() if module is embedding)
    return path.removesuffix(".base")


def first_tokens(model: Model, text: str, count: int, *, seed: int) -> Tensor:
    """The V token ids a lead begins as: those of `text`, repeated to fill, or drawn from the vocabulary (Lester and others, arXiv
    2104.08691, section 3.2).

    Raises:
        SpecError: `text` has no tokens.
    """
    known = model.embedding().num_embeddings
    if not text:
        return torch.randint(min(model.renderer.vocab_size, known), (count,), generator=dice(seed, "lead")).to(model.device)
    tokens = model.renderer.encode(text)
    if not tokens:
        raise SpecError("method.begin has no tokens.", remedy="Give it some words, or leave it out.", code="bad_value")
    return torch.tensor(
        [tokens[i % len(tokens)] % known for i in range(count)], device=model.device
    )  # % known: a planner's network knows few


def blended(parts: list[tuple[Tensor, float]], how: str) -> Tensor:
    """Rows of several leads as one: added by weight, or one lead behind the other, which leaves no place for weights."""
    if how == "concatenation":
        if any(weight != 1 for _, weight in parts):
            raise ValueError("what stands one behind the other has no weights: give each 1.")
        return torch.cat([rows for rows, _ in parts])
    if len({rows.shape for rows, _ in parts}) > 1:
        raise ValueError("leads of different length cannot be added.")
    return torch.stack([weight * rows for rows, weight in parts]).sum(0)


def shape_of(model: Model) -> tuple[int, int, int]:
    """Layers, key-value heads, and width of a head: as one token leaves them, since configs name them in many ways."""
    memories = memories_of(model, tokens_V=torch.zeros(1, dtype=torch.int64, device=model.device))
    heads, _, width = memories[0].keys.shape
    return len(memories), heads, width


def write(model: Model, folder: Path, *, kind: str, rows_VX: Tensor, width: int, **more: Any) -> None:
    """A lead in PEFT's layout: one tensor ``prompt_embeddings``, a row for each of its tokens."""
    layers, heads, _ = shape_of(model)
    config = {
        "peft_type": kind,
        "num_virtual_tokens": len(rows_VX),
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
        "modules_to_save": None,
    }
    _peft.write(folder, model, config=config | more, tensors={"prompt_embeddings": rows_VX})


def read(model: Model, folder: Path, *, kind: str, width: Callable[[Model], int], ignores: frozenset[str]) -> Tensor:
    """The rows ``[V, X]`` of a lead on disk.

    Raises:
        ModelError: it is not of this kind, or was made for a model of another shape.
    """
    _, tensors = _peft.read(folder, kind, needs=("num_virtual_tokens",), ignores=_NO_MATTER | ignores)
    if tensors.keys() != {"prompt_embeddings"}:
        raise _peft.not_part(tensors.keys() - {"prompt_embeddings"}, "a plain lead", folder)
    rows_VX = tensors["prompt_embeddings"]
    if rows_VX.ndim != 2 or rows_VX.shape[1] != width(model):
        raise _peft.misfit(f"Its rows are {list(rows_VX.shape)}, {model.name} wants [tokens, {width(model)}].", folder)
    return rows_VX
