"""Scoring through the tree: what a model thinks of given continuations. Evaluation, certificates and multiple choice use it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.engine.forest import Forest, states
from luthier.engine.loss import CHUNK
from luthier.engine.pack import packs
from luthier.engine.tree import Pack
from luthier.models.device import send
from luthier.models.model import Model

ROWS_AT_ONCE = 256
"""Rows planned together: enough to meet their shared beginnings, few enough to plan in milliseconds."""

_NOWHERE = Source("", 0)


@dataclass(slots=True)
class Score:
    """What a model thinks of one sequence's learned tokens, L of them in order.

    Attributes:
        logprobs_L: float32 natural log-probability of each.
        weights_L: float32 their weights.
        hits_L: bool, whether it was the model's first choice.
    """

    logprobs_L: NDArray[np.float32]
    weights_L: NDArray[np.float32]
    hits_L: NDArray[np.bool_]

    @property
    def total(self) -> float:
        """Weighted sum of log-probabilities, in nats."""
        return float((self.logprobs_L.astype(np.float64) * self.weights_L).sum())


def score(
    model: Model,
    sequences: Many[Sequence],
    *,
    budget: int = TOKENS_PER_PACK,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Score every sequence, in the order given. Common beginnings are computed once per `ROWS_AT_ONCE` sequences.

    Args:
        sequences: their `weights` say which tokens are scored.
        budget: tokens laid out at once; never changes the result beyond rounding.
        on_progress: called with (done, total) sequences.
    """
    model.network.eval()
    scores: list[Score] = []
    for first in range(0, len(sequences), ROWS_AT_ONCE):
        part = sequences[first : first + ROWS_AT_ONCE]
        scores.extend(_score_part(model, part, budget))
        if on_progress is not None:
            on_progress(len(scores), len(sequences))
    return scores


def _score_part(model: Model, sequences: Many[Sequence], budget: int) -> list[Score]:
    found: list[Score | None] = [None] * len(sequences)
    rows = [Row(_NOWHERE, [sequence]) for sequence in sequences]
    for pack in packs(rows, budget):
        logprobs_N, hits_N = _score_pack(model, pack)
        for member in pack.members:
            mine = pack.sequences_N == member  # planting keeps each sequence's learned tokens in order
            found[member] = Score(logprobs_N[mine], pack.weights_N[mine], hits_N[mine])
    return [s for s in found if s is not None]


@torch.no_grad()
def _score_pack(model: Model, pack: Pack) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    where = model.device
    states_ND, targets_N = states(model, pack).index_select(0, send(pack.rows_N, where)), send(pack.targets_N, where)
    logprobs, hits = [torch.empty(0, device=where)], [torch.empty(0, dtype=torch.bool, device=where)]
    for states_CD, targets_C in zip(states_ND.split(CHUNK), targets_N.split(CHUNK), strict=True):
        logits_CV = model.capped(F.linear(states_CD, model.head().weight)).float()
        logprobs.append(logits_CV.gather(1, targets_C[:, None]).squeeze(1) - logits_CV.logsumexp(-1))
        hits.append(logits_CV.argmax(-1) == targets_C)
    return torch.cat(logprobs).cpu().numpy(), torch.cat(hits).cpu().numpy()


def outputs(model: Model, sequences: Many[Sequence], *, budget: int = TOKENS_PER_PACK) -> list[NDArray[np.float32]]:
    """What the model's predictor says at every learned place of each sequence, ``[L, C]``, in the order given."""
    model.network.eval()
    found: list[NDArray[np.float32]] = []
    for first in range(0, len(sequences), ROWS_AT_ONCE):
        part = [Row(_NOWHERE, [sequence]) for sequence in sequences[first : first + ROWS_AT_ONCE]]
        said: dict[int, NDArray[np.float32]] = {}
        for pack in packs(part, budget):
            with torch.no_grad():
                outputs_NC = Forest(model, pack).outputs().cpu().numpy()
            said |= {member: outputs_NC[pack.sequences_N == member] for member in pack.members}
        found += [said[place] for place in range(len(part))]
    return found
