"""A forest as its objective sees it: what is asked for is computed, once, and nothing else.

T tokens laid out, N learned pairs, P rows, D width of a state.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from luthier.engine.loss import choices, logprobs, top, weighted_loss
from luthier.engine.tree import Pack
from luthier.models.device import send
from luthier.models.model import Model

STATE = "state"
"""Under this name the states themselves lie beside the learned pairs, where nothing in the network moves: then it is not run at all."""


class Forest:
    """One pack on its way through a model (implements `objectives._forest.Forest`).

    Args:
        surveyed: what the objective found in a survey of the whole step; empty where it wants none.
    """

    def __init__(self, model: Model, pack: Pack, surveyed: Tensor | None = None) -> None:
        self.model, self.pack = model, pack
        self.surveyed = torch.empty(0) if surveyed is None else surveyed

    @cached_property
    def states_ND(self) -> Tensor:
        """States after the final norm of the tokens that predict something: computed, unless they lie beside the pairs already."""
        if STATE in self.pack.beside:
            return self.beside(STATE).to(self.model.dtype)  # kept in float32; a layer between them and the head wants its own
        states_TD = states(self.model, self.pack)
        return states_TD.index_select(0, send(self.pack.rows_N, states_TD.device))

    @cached_property
    def targets_N(self) -> Tensor:
        """Token ids to predict."""
        return send(self.pack.targets_N, self.model.device)

    @cached_property
    def weights_N(self) -> Tensor:
        """How much each learned pair counts, float32."""
        return send(self.pack.weights_N, self.model.device)

    def logprobs(self) -> Tensor:
        """Natural log-probability of every learned token, float32 ``[N]``, differentiable."""
        return logprobs(self.states_ND, self.model.head().weight, self.targets_N, softcap=self.model.softcap)

    def surprise(self) -> Tensor:
        """``-sum(weights * logprobs)`` in nats: as from `logprobs`, and cheaper where the head is trained."""
        head_VD, softcap = self.model.head().weight, self.model.softcap
        return weighted_loss(self.states_ND, head_VD, self.targets_N, self.weights_N, softcap=softcap)[0]

    def choices(self, ids_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of given tokens at every learned pair's state, float32 ``[N, K]``, differentiable."""
        return choices(self.states_ND, self.model.head().weight, ids_NK, temperature=temperature)

    def top(self, count: int, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of every learned pair's state: ids and log-probabilities, ``[N, K]``."""
        return top(self.states_ND, self.model.head().weight, count, temperature=temperature)

    def outputs(self) -> Tensor:
        """What the model's predictor says of every learned pair's state, float32 ``[N, C]``, differentiable."""
        assert self.model.predictor is not None, "an objective that predicts wants a model with a predictor"
        found: Tensor = self.model.predictor(self.model.summary(self.states_ND))
        return found

    def beside(self, name: str) -> Tensor:
        """What is known of the learned pairs under this name (`Sequence.beside`), ``[N, ...]``."""
        return send(self.pack.beside[name], self.model.device)

    @cached_property
    def rows(self) -> Tensor:
        """Numbers of the forest's P rows within the step, ascending, ``[P]``."""
        return torch.tensor(sorted(set(self.pack.owners)))

    def total(self, values_N: Tensor, part: str = "") -> Tensor:
        """Sum of `values_N` within each row of the forest, ``[P]`` (or ``[P, ...]``), rows in the order of the step.

        Args:
            part: only the pairs of the row's paths that are called so (``chosen``, ``rejected``); all of them when empty.
        """
        rows = self.rows.tolist()
        places_M = np.searchsorted(rows, self.pack.owners)
        if part:
            places_M = np.where(np.array(self.pack.parts) == part, places_M, len(rows))  # the others are summed where nobody looks
        place_N = send(places_M[self.pack.places_N()], values_N.device)
        sums = torch.zeros(len(rows) + 1, *values_N.shape[1:], dtype=values_N.dtype, device=values_N.device)
        return sums.index_add(0, place_N, values_N)[: len(rows)]


def states(model: Model, pack: Pack) -> Tensor:
    """States after the final norm, ``[T, D]``, of every token of a forest."""
    where = model.device
    tokens_T, positions_T = send(pack.tokens_T, where), send(pack.positions_T, where)
    return model.states(tokens_T=tokens_T, positions_T=positions_T, sight=pack.sight(), media=pack.media)
