"""Embeddings: texts that belong together come near each other, all others of the step go away (InfoNCE: van den Oord, Li and Vinyals, arXiv
1807.03748, eq. 4; with the batch as negatives: Henderson et al., arXiv 1705.00652, section 4.4).

    e(x) = mean of the states of the tokens of x, those of its pictures among them, of length 1
    loss = -log( exp(e(a) e(p) / t) / sum over all p' and negatives n of the step of exp(e(a) e(.) / t) )

The step, not the forest, is the batch: all embeddings are surveyed first, and each forest then gives the gradient of its own. So more
rows a step are more negatives, at no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.core.errors import DataError
from luthier.core.example import Message
from luthier.core.sequence import Per, Row, Rows, Sequence
from luthier.core.spec import Strict
from luthier.data.render import Renderer
from luthier.models.predictor import Meaning
from luthier.objectives._answers import Answers
from luthier.objectives._forest import Forest

PARTS = ("anchor", "positive", "negative")


class Options(Strict):
    """Settings of contrastive embeddings."""

    temperature: float = Field(0.05, gt=0, le=10)
    """Small: only the nearest wrong texts are pushed away; large: all alike."""


class Objective:
    """Contrastive loss with the step's other texts as negatives; a step's loss is the mean over its rows."""

    learn: str | None = "last_answer"
    pairs = True
    needs: frozenset[str] = frozenset({"states", "words"})
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "row"
    rate = 0.3
    aside = ""
    judged = "nearness"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lay(self, rows: Rows, renderer: Renderer, answers: Answers) -> Rows:
        """Each row as two texts, or three."""
        return Texts(rows, renderer, answers)

    def survey_shape(self, rows: int, width: int) -> tuple[int, ...]:
        """An embedding for each row and part."""
        return (rows, len(PARTS), width)

    def survey(self, forest: Forest) -> Tensor:
        """The embeddings of this forest's rows; zeros for all others."""
        found = torch.zeros_like(forest.surveyed)
        found[forest.rows] = embeddings(forest)
        return found

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the rows of a forest, with the gradient of its own embeddings in the losses of all rows."""
        own_P3D = embeddings(forest)
        every_R3D = forest.surveyed.index_copy(0, forest.rows.to(own_P3D.device), own_P3D)
        losses_R = self._losses(every_R3D)
        whole = losses_R.sum()
        return whole - whole.detach() + losses_R[forest.rows].sum().detach()

    def _losses(self, every_R3D: Tensor) -> Tensor:
        anchors_RD, positives_RD, negatives_RD = every_R3D.unbind(1)
        there_R = negatives_RD.abs().sum(-1) > 0
        others_MD = torch.cat([positives_RD, negatives_RD[there_R]])
        scores_RM = anchors_RD @ others_MD.T / self.options.temperature
        return F.cross_entropy(scores_RM, torch.arange(len(anchors_RD), device=scores_RM.device), reduction="none")


def embeddings(forest: Forest) -> Tensor:
    """Of each row of a forest its parts' embeddings, ``[P, 3, D]``, of length 1; zeros where it has no such part."""
    states_ND = forest.states_ND.float()
    means = [forest.total(states_ND, part) for part in PARTS]
    return torch.stack([F.normalize(mean_PD, dim=-1) for mean_PD in means], dim=1)


class Texts:
    """Rows as texts to be embedded, every state of which is read (implements `core.sequence.Rows`)."""

    def __init__(self, rows: Rows, renderer: Renderer, answers: Answers) -> None:
        self.rows, self.renderer, self.answers = rows, renderer, answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        source = self.rows[index].source
        said = self.answers.of(source)
        texts = zip(PARTS, (said.asked, said.text, said.worse), said.media, strict=True)
        try:
            return Row(source, [worded(self.renderer, text, part, media) for part, text, media in texts if text])
        except DataError as error:
            raise DataError(error.what, where=str(source), remedy=error.remedy, code=error.code) from error

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def worded(renderer: Renderer, text: str, part: str, media: tuple[str, ...] = ()) -> Sequence:
    """A text whose every state is read, those of its pictures too; behind a decoder's last word an end token gives that state its place.

    Raises:
        DataError: its words hold a picture's token (``unrendered``), or the model reads something else than words.
    """
    whole = renderer.plain is not None
    if renderer.eyes is not None:
        text = renderer.eyes.among(text, len(media))
    tokens = renderer.prompt([Message("user", text)]) if whole else [*renderer.parts.prefix, *renderer.encode(text), renderer.end_token]
    weights = np.ones(len(tokens), np.float32)
    weights[0] = whole  # nothing stands behind the closing token of a row that is read whole: its state is read here
    return Sequence(np.array(tokens, np.int32), weights, part, apart=whole or bool(media), media=media)
