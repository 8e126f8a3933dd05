"""Direct preference optimisation: of two answers to one prompt, make the better one likelier and the worse one less likely.

No reward model and no sampling: how much likelier than under the base an answer has become *is* its reward (Rafailov et al.,
arXiv 2305.18290, eq. 5)::

    r(y) = log p(y | x) - log p_base(y | x)          D = r(chosen) - r(rejected)

    sigmoid   -log sigmoid(beta D)                   eq. 7 there
    ipo       (D' - 1 / (2 beta))^2                  Azar et al., arXiv 2310.12036, eq. 17; D' takes r per token of its answer
    hinge     max(0, 1 - beta D)                     Zhao et al. (SLiC-HF), arXiv 2305.10425, eq. 1, with rewards in place of scores

With `label_smoothing` e, a share e of the pairs is taken to be the wrong way round: ``(1 - e) L(D) + e L(-D)`` (Mitchell, "A note on
DPO with noisy preferences", 2023).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest
from luthier.objectives._pairs import means, totals


class Options(Strict):
    """Settings of DPO."""

    beta: float = Field(0.1, gt=0, le=10)
    """How closely the tuned model stays to its base: small lets it move far, large holds it."""
    kind: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """The curve: sigmoid, the square of ipo (does not run away where pairs are never wrong), or hinge (stops at a margin)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs whose better answer may be marked wrongly."""


class Objective:
    """DPO over pairs; a step's loss is the mean over its pairs."""

    learn: str | None = None
    pairs = True
    reads = frozenset({"pairs"})
    needs: frozenset[str] = frozenset({"next-token"})
    meaning: Meaning | None = None
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset({"reference"})
    per: Per = "row"
    rate = 0.1
    """Preference recipes take 5e-6 to 5e-5 with LoRA where supervised ones take 2e-4. A guess within a factor of two."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the pairs of a forest."""
        reward_N = forest.logprobs() - forest.beside("reference")
        chosen_P, rejected_P = (means if self.options.kind == "ipo" else totals)(forest, reward_N)
        gap_P = chosen_P - rejected_P
        noise = self.options.label_smoothing
        return ((1 - noise) * self._curve(gap_P) + noise * self._curve(-gap_P)).sum()

    def _curve(self, gap_P: Tensor) -> Tensor:
        beta = self.options.beta
        if self.options.kind == "ipo":
            return (gap_P - 1 / (2 * beta)).square()
        return (1 - beta * gap_P).relu() if self.options.kind == "hinge" else -F.logsigmoid(beta * gap_P)
