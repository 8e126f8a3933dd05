"""Pictures among words: each becomes as many tokens as the network makes of it, all the same, where the chat template puts it.

    template    USER: <image>Who is this?          tokens    USER : [image] [image] ... [image] Who is this ?

The words around them are rendered as always. Tokens of pictures are read and never learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.errors import DataError, ModelError
from luthier.core.example import MARK
from luthier.core.sequence import Sequence
from luthier.data.pictures import plan_of
from luthier.data.tokenizer import Tokenizer

SEEING = frozenset({"llava"})
"""``model_type`` of networks that read pictures among words."""

LAYOUT = (
    "model_type",
    "image_token_index",
    "image_token_id",
    "image_size",
    "patch_size",
    "vision_feature_select_strategy",
    "vision_config",
)
"""What of a config.json says how pictures are laid out."""

_FIRST = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Tokens a tower puts before its patches; ``vision_feature_select_strategy: default`` leaves one out again."""


class Eyes:
    """How one model takes in pictures.

    Args:
        model, processor: contents of config.json (`LAYOUT`) and preprocessor_config.json.

    Attributes:
        plan: from bytes to numbers. token, id: of a picture. count: tokens a picture becomes.

    Raises:
        ModelError: the files contradict each other, or the tower is one that is not computed.
    """

    def __init__(self, model: dict[str, Any], processor: dict[str, Any], tokenizer: Tokenizer, *, where: str = "") -> None:
        self.plan = plan_of(processor, where=where)
        tower = model.get("vision_config") or {}
        kind, size, patch = (
            str(tower.get("model_type", "clip_vision_model")),
            int(tower.get("image_size", 336)),
            int(tower.get("patch_size", 14)),
        )
        if kind not in _FIRST or self.plan.size != (size, size):
            raise ModelError(
                f"Pictures are made {self.plan.size[1]} x {self.plan.size[0]}, the tower {kind} reads {size} x {size}.",
                where=where,
                remedy=f"Fetch the model again; towers that are computed: {', '.join(sorted(_FIRST))}.",
                code="preprocessor",
            )
        left_out = 1 if model.get("vision_feature_select_strategy", "default") == "default" else 0
        self.count = (size // patch) ** 2 + _FIRST[kind] - left_out
        self.id = int(model.get("image_token_id") or model.get("image_token_index") or 32000)
        self.token = tokenizer.text_of(self.id)
        if self.token not in tokenizer.added:
            raise ModelError(
                f"The token of a picture, {self.id}, is none of the tokenizer's added tokens.",
                where=where,
                remedy="Fetch the model again.",
                code="tokenizer",
            )

    def spread(self, text: str) -> str:
        """A rendered text with as many tokens for each picture as it becomes."""
        return text.replace(self.token, self.token * self.count)

    def among(self, text: str, pictures: int) -> str:
        """Words without a template, with as many tokens at each picture's mark as it becomes. Raises as `expect`."""
        shown = text.replace(MARK, self.token)
        self.expect(shown, pictures)
        return self.spread(shown)

    def expect(self, text: str, pictures: int) -> None:
        """Refuse a text that shows another number of pictures than the row has up to there.

        Raises:
            DataError: the template leaves one out, or the words hold a picture's token.
        """
        shown = text.count(self.token)
        if shown != pictures:
            raise DataError(
                f"The row has {pictures} pictures up to here, but what the model would read holds {shown}.",
                remedy=f"Delete {self.token} from the words, or choose a model whose template shows pictures there.",
                code="unrendered",
            )

    def seen(self, path: Sequence, media: tuple[str, ...]) -> Sequence:
        """A path with its pictures, the first of a row's; their tokens are not learned."""
        mine = path.tokens == self.id
        pictures = int(mine.sum()) // self.count
        if not pictures:
            return path
        return Sequence(path.tokens, np.where(mine, np.float32(0), path.weights), path.part, apart=True, media=media[:pictures])
