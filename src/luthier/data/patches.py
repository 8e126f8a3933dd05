"""Pictures as a classifier reads them: a row is one picture, laid out as one token a patch. No words, no tokenizer.

    picture 32 x 32, patches of 8     [first] p p p p p p p p p p p p p p p p      17 tokens, all of them id 0

The tokens only hold the places; the network makes the states of a row from the picture itself (``families/vision.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from luthier.core.errors import DataError, ModelError
from luthier.core.example import MARK
from luthier.core.sequence import Sequence
from luthier.data.pictures import plan_of
from luthier.data.plain import spelled, words
from luthier.data.tokenizer import Tokenizer
from luthier.data.turns import Turn

CLASSIFIERS = {"vit": 1, "deit": 2}
"""``model_type`` of networks that read one picture, and the tokens each puts before its patches."""


def one_piece() -> Tokenizer:
    """A tokenizer for a model without words: one piece, the patch."""
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"▪": 0}, "unk_token": "▪"},
    }
    return Tokenizer(json.dumps(content).encode())


class Patches:
    """How rows of one picture are laid out.

    Args:
        model, processor: contents of config.json and preprocessor_config.json.

    Raises:
        ModelError: the processor is not computed, or its pictures have another size than the network reads.
    """

    end = 0
    tokenizer_size = 1

    def __init__(self, model: dict[str, Any], processor: dict[str, Any], *, where: str = "") -> None:
        self.plan = plan_of(processor, where=where)
        size, patch = _pair(model.get("image_size", 224)), _pair(model.get("patch_size", 16))
        if self.plan.size != size:
            raise ModelError(
                f"preprocessor_config.json makes pictures of {self.plan.size}, config.json reads {size}.",
                where=where,
                remedy="Fetch the model again.",
                code="preprocessor",
            )
        self.count = (size[0] // patch[0]) * (size[1] // patch[1]) + CLASSIFIERS[str(model["model_type"])]

    def admit(self, turn: Turn) -> None:
        """Refuse what is not read.

        Raises:
            DataError: there is no picture, or several, or words beside it.
        """
        beside = turn.prompt.replace(MARK, "").strip()
        if [medium.kind for medium in turn.media] != ["image"] or beside or turn.pair:
            got = f"{sum(medium.kind == 'image' for medium in turn.media)} pictures" + (f" and the words {beside[:40]!r}" if beside else "")
            raise DataError(
                f"This model reads one picture and nothing else, but the row has {got}.",
                remedy='Write rows like {"image": "17.png", "label": "cat"}, or choose a model that reads words, too.',
                code="one_picture",
            )

    def read(self, turn: Turn) -> list[int]:
        """Places of one picture."""
        return [0] * self.count

    def spell(self, answer: str) -> list[int]:
        """The answer behind a row (`luthier.data.plain`)."""
        return spelled(answer, self.tokenizer_size)

    def words(self, tokens: Iterable[int]) -> str:
        """Text of ids: a square for each patch, and a spelled answer."""
        return words(tokens, self.tokenizer_size, lambda ids: "▪" * len(ids))

    def length(self, path: Sequence) -> int:
        """Tokens of a path that the network reads."""
        return int((path.tokens < self.tokenizer_size).sum())


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else (int(value), int(value))
