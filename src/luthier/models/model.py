"""A model: the network, the family that knows its parts, and the renderer that turns words into its tokens."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from luthier.data.render import Renderer
from luthier.models.lead import lead_of
from luthier.models.lead import states as led_states
from luthier.models.predictor import Predictor
from luthier.models.quantize import Packing, packed_weights
from luthier.models.sight import Sight


@dataclass(slots=True)
class Model:
    """A network ready to be tuned or asked.

    Attributes:
        name: as the user or the catalog says it. folder: where its files lie; ``Path()`` for one made from random weights.
        network: a transformers model. family: module of ``models/families`` that reads it.
        renderer: tokenizer and chat template, the only place where messages become tokens.
        dtype: number format of the frozen weights and of the arithmetic. context: longest row in tokens.
        packing: how the linears of the blocks are packed (``models/quantize.py``); empty when they are not.
        predictor: what says something else than the next token of a state; None where next tokens are said.
    """

    name: str
    folder: Path
    network: nn.Module
    family: ModuleType
    renderer: Renderer
    dtype: torch.dtype
    context: int
    packing: Packing | Literal[""] = ""
    predictor: Predictor | None = None

    @property
    def config(self) -> Any:
        """The network's transformers config."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Weights of network and predictor, a shared one counted once; deltas in slots included."""
        return sum(p.numel() for p in self._parameters()) + packed_weights(self.network)

    @property
    def num_trained(self) -> int:
        """Weights that may move."""
        return sum(p.numel() for p in self._parameters() if p.requires_grad)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *(self.predictor.parameters() if self.predictor else ())]

    @property
    def width(self) -> int:
        """D, numbers of a state."""
        return int(self.config.get_text_config().hidden_size)

    def blocks(self) -> nn.ModuleList:
        """The layers that repeat."""
        return cast(nn.ModuleList, self.family.blocks(self.network))

    def linears(self) -> dict[str, nn.Module]:
        """Every linear of every block by its full path, seen through slots."""
        paths = {id(module): path for path, module in self.network.named_modules()}
        return {f"{paths[id(block)]}.{name}": linear for block in self.blocks() for name, linear in self.family.linears(block).items()}

    def embedding(self) -> nn.Embedding:
        """Token id to vector."""
        return cast(nn.Embedding, self.family.embedding(self.network))

    def head(self) -> nn.Linear:
        """State to token scores."""
        return cast(nn.Linear, self.family.head(self.network))

    @property
    def softcap(self) -> float | None:
        """Bound on the head's scores, ``cap * tanh(score / cap)`` (Gemma 2, arXiv 2408.00118, section 2.1); None where there is none."""
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        return None if cap is None else float(cap)

    def capped(self, logits: Tensor) -> Tensor:
        """The head's scores as the network means them: within its soft cap."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @property
    def tied(self) -> bool:
        """Embedding and head are one tensor."""
        head = self.network.get_output_embeddings()  # type: ignore[operator]
        return head is not None and head.weight is self.embedding().weight

    @property
    def vocabulary(self) -> int:
        """Token ids the network reads; 1 where it reads none."""
        embedding = self.family.embedding(self.network)
        return 1 if embedding is None else int(embedding.num_embeddings)

    def summary(self, states_ND: Tensor) -> Tensor:
        """What the predictor reads of the states it is asked about, ``[N, D]``."""
        words = self.predictor is not None and self.predictor.meaning.kind == "tags"
        return cast(Tensor, self.family.summary(self.network, states_ND, words=words))

    def states(self, *, tokens_T: Tensor, positions_T: Tensor, sight: Sight | None, media: Many[tuple[int, str]] = ()) -> Tensor:
        """States after the final norm, ``[T, D]``, of a forest of tokens; `sight` says who sees whom.

        Args:
            media: pictures among the tokens, each with the index of its row's first token.
        """
        seen: dict[str, Any] = {"media": [(start, self.renderer.picture(reference)) for start, reference in media]} if media else {}
        lead = lead_of(self)
        if lead is not None:
            return led_states(self, lead, tokens_T=tokens_T, positions_T=positions_T, sight=sight, **seen)
        return cast(Tensor, self.family.states(self.network, tokens_T=tokens_T, positions_T=positions_T, sight=sight, **seen))
