"""A reward model: a head that gives the better of two answers the higher score (Ouyang et al., arXiv 2203.02155, eq. 1).

    loss = -log sigmoid(r(chosen) - r(rejected)) + centre (r(chosen) + r(rejected))^2

r is read from the state of the answer's last word. The second part keeps scores around zero, which differences alone leave
open (Eisenstein et al., arXiv 2312.09244, eq. 2).
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per, Rows
from luthier.core.spec import Strict
from luthier.data.render import Renderer
from luthier.models.predictor import Meaning
from luthier.objectives._answers import Answers, Ended
from luthier.objectives._forest import Forest
from luthier.objectives._pairs import SIDES


class Options(Strict):
    """Settings of a reward model."""

    centre: float = Field(0.01, ge=0, le=10)
    """How strongly scores are held around zero."""


class Objective:
    """A scalar head over pairs; a step's loss is the mean over its pairs."""

    learn: str | None = None
    pairs = True
    reads = frozenset({"pairs"})
    needs: frozenset[str] = frozenset({"states", "next-token"})
    supports: frozenset[str] = frozenset({"head"})
    beside: frozenset[str] = frozenset()
    meaning: Meaning | None = Meaning("ranking")
    per: Per = "row"
    rate = 1.0

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lay(self, rows: Rows, renderer: Renderer, answers: Answers) -> Rows:
        """Each answer with the one state that is read."""
        return Ended(rows)

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the pairs of a forest."""
        scores_N = forest.outputs()[:, 0]
        chosen_P, rejected_P = (forest.total(scores_N, side) for side in SIDES)
        return (-F.logsigmoid(chosen_P - rejected_P) + self.options.centre * (chosen_P + rejected_P).square()).sum()
