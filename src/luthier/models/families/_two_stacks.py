"""What networks of two stacks have in common: an encoder reads a source whole, a decoder writes beside it.

    token    s s s . | > t t t .          source and its end, then the decoder's first token and what it writes
    state    - - - - | y y y y y          of the decoder; nobody asks for a source token's

Forests are unfolded into their paths and computed in a batch, padded behind: a path's state does not depend on the others. A source is read
once, however many answers follow it.

T tokens of a pack, S sources, N tokens of the longest, R paths, U tokens the longest writes, B rows, D width of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models.sight import Sight

Decode = Callable[..., Any]
"""A decoder's forward: ``input_ids``, ``encoder_hidden_states`` and whatever else goes through."""

UNREAD = "Only rows and prompts laid out whole are read by this kind of network."


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers of the encoder, then those of the decoder."""
    base = cast(Any, network.base_model)
    stacks = [getattr(stack, "block", None) or stack.layers for stack in (base.encoder, base.decoder)]
    return nn.ModuleList(block for stack in stacks for block in stack)


def groups(block: nn.Module) -> list[tuple[str, ...]]:
    """None: transformers runs the blocks."""
    return []


def paths(sight: Any) -> list[list[int]]:
    """Every way from a root of a forest to a leaf, as indices of tokens.

    Raises:
        ModelError: this is no forest, but an answer that goes on token by token.
    """
    if not isinstance(sight, Sight):
        raise ModelError(UNREAD, remedy="Generate with `luthier.inference.generate`; the service does not serve it.", code="not_served")
    ends, way, found = sight.ends_T.tolist(), list[int](), list[list[int]]()
    for place, end in enumerate(ends):
        while way and ends[way[-1]] <= place:
            way.pop()
        way.append(place)
        if end == place + 1:
            found.append(list(way))
    return found


@dataclass
class Sources:
    """What an encoder made of sources.

    Attributes:
        states_RND: padded behind, for each path or row. mask_RN: which are there, or None where all are.
    """

    states_RND: Tensor
    mask_RN: Tensor | None = None

    def given(self) -> dict[str, Tensor]:
        """As a decoder takes it."""
        masked = {"encoder_attention_mask": self.mask_RN} if self.mask_RN is not None else {}
        return {"encoder_hidden_states": self.states_RND, **masked}


def decoded(decode: Decode, sources: Sources, written: list[list[int]], tokens_T: Tensor) -> Tensor:
    """States ``[T, D]`` of what is written beside each source; zeros at all other places.

    Args:
        written: for each source the indices of the decoder's tokens.
    """
    where, longest = tokens_T.device, max(map(len, written))
    index_RU = torch.tensor([[*places, *[places[-1]] * (longest - len(places))] for places in written], device=where)
    out_RUD = decode(input_ids=tokens_T.to(torch.int64)[index_RU], use_cache=False, **sources.given()).last_hidden_state
    first: dict[int, int] = {}  # a token that several paths share is taken from the first, so that its gradient comes once
    for row, places in enumerate(written):
        for column, place in enumerate(places):
            first.setdefault(place, row * longest + column)
    states_TD = out_RUD.new_zeros(len(tokens_T), out_RUD.shape[-1])
    found_TD: Tensor = states_TD.index_put((torch.tensor(list(first), device=where),), out_RUD.flatten(0, 1)[list(first.values())])
    return found_TD


class Writer:
    """Rows that write together, each beside its source (`luthier.inference.beside`): the source is read once, what is written remembered.

    Args:
        scale: what states are multiplied with before the head reads them.
    """

    def __init__(self, decode: Decode, sources: Sources, prompts: Collection[list[int]], *, scale: float = 1.0) -> None:
        if len({len(prompt) for prompt in prompts}) > 1:
            raise ModelError(
                "Rows that write together begin with as many tokens each.",
                remedy="Give prompts as the renderer makes them.",
                code="weights",
            )
        self.decode, self.sources, self.scale = decode, sources, scale
        self.memory: Any = None  # made by the decoder, which knows its layers
        self.states_BD = self._read(torch.tensor(list(prompts), device=sources.states_RND.device))

    def next(self, tokens_B: Tensor) -> Tensor:
        """States ``[B, D]`` after one more token of each row."""
        self.states_BD = self._read(tokens_B[:, None])
        return self.states_BD

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self.states_BD.device)
        mask = self.sources.mask_RN
        self.sources = Sources(self.sources.states_RND[index], None if mask is None else mask[index])
        self.states_BD = self.states_BD[index]
        self.memory.batch_select_indices(index)

    def _read(self, tokens_BU: Tensor) -> Tensor:
        out = self.decode(input_ids=tokens_BU, past_key_values=self.memory, use_cache=True, **self.sources.given())
        self.memory = out.past_key_values
        states_BD: Tensor = out.last_hidden_state[:, -1] * self.scale
        return states_BD
