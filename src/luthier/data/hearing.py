"""Rows of one sound: to classify, or to write down. Places are laid where the network's encoder will have states.

classifier     [first] [second] p p p p p           all of them id 0, as patches of a picture (``data/patches.py``)
transcriber    p p p p <|start|> <|en|> <|transcribe|> <|notimestamps|> Good night . <|end|>        the last part is learned
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import dropwhile
from typing import Any

from luthier.core.errors import DataError, ModelError
from luthier.core.example import MARK
from luthier.core.sequence import Sequence
from luthier.data.patches import Patches
from luthier.data.sounds import plan_of
from luthier.data.tokenizer import Tokenizer
from luthier.data.turns import Turn

HEARERS = frozenset({"audio-spectrogram-transformer"})
"""``model_type`` of networks that say what one sound is."""

TRANSCRIBERS = frozenset({"whisper"})
"""``model_type`` of networks that write one sound down."""

HEARD = (
    "model_type",
    "patch_size",
    "frequency_stride",
    "time_stride",
    "max_length",
    "num_mel_bins",
    "decoder_start_token_id",
    "max_source_positions",
)
"""What of a config.json says how sounds are laid out."""

SAID = ("language", "task", "is_multilingual")
"""What of a generation_config.json says how a transcript begins."""


class Frames(Patches):
    """How rows of one sound are laid out for a classifier.

    Raises:
        ModelError: the extractor is not computed, or its frames are others than the network reads.
    """

    def __init__(self, model: dict[str, Any], processor: dict[str, Any], *, where: str = "") -> None:
        self.plan = plan_of(processor, where=where)  # type: ignore[assignment]
        sides = [
            (int(model.get(length, default)) - int(model.get("patch_size", 16))) // int(model.get(stride, 10)) + 1
            for length, default, stride in (("num_mel_bins", 128, "frequency_stride"), ("max_length", 1024, "time_stride"))
        ]
        wanted = int(model.get("num_mel_bins", 128)), int(model.get("max_length", 1024))
        _same(wanted, (self.plan.bins, self.plan.frames), where)  # type: ignore[attr-defined]
        self.count = sides[0] * sides[1] + 2

    def admit(self, turn: Turn) -> None:
        """Refuse what is not heard.

        Raises:
            DataError: there is no sound, or several, or words beside it.
        """
        only_sound(turn)


class Transcript:
    """How rows of one sound and its transcript are laid out.

    Raises:
        ModelError: the extractor is not computed, or the tokenizer has no tokens to begin with.
    """

    def __init__(self, tokenizer: Tokenizer, model: dict[str, Any], processor: dict[str, Any], end: int | None, *, where: str = "") -> None:
        self.tokenizer, self.plan = tokenizer, plan_of(processor, where=where)
        self.count = int(model.get("max_source_positions", 1500))
        _same((self.plan.bins, 2 * self.count), (int(model.get("num_mel_bins", 80)), self.plan.frames), where)
        start = tokenizer.text_of(int(model.get("decoder_start_token_id") or 0))
        language = str(model.get("language") or "en").strip("<|>")
        task = str(model.get("task") or "transcribe")
        words = [start, f"<|{language}|>", f"<|{task}|>"] if model.get("is_multilingual", True) else [start]
        self.begin = [tokenizer.id_of(word) for word in (*words, "<|notimestamps|>")]
        if end is None or None in self.begin:
            raise ModelError(
                f"The tokenizer has no end token, or not all of {' '.join(words)} <|notimestamps|>, with which transcripts begin.",
                where=where,
                remedy="Fetch the model again; generation_config.json may name language and task.",
                code="tokenizer",
            )
        self.end = end

    def admit(self, turn: Turn) -> None:
        """Refuse what is not heard. Raises as `Frames.admit`."""
        only_sound(turn)

    def read(self, turn: Turn) -> list[int]:
        """Places of one sound, and how a transcript begins."""
        return [0] * self.count + [token for token in self.begin if token is not None]

    def spell(self, answer: str) -> list[int]:
        """Ids of the transcript and its end."""
        return [*self.tokenizer.encode(answer), self.end]

    def words(self, tokens: Iterable[int]) -> str:
        """Text of ids, places left out."""
        return self.tokenizer.decode(list(dropwhile(lambda token: token == 0, tokens)))

    def length(self, path: Sequence) -> int:
        """Tokens of a path that the network reads."""
        return len(path.tokens)


def only_sound(turn: Turn) -> None:
    """Refuse rows that are not one sound and nothing else.

    Raises:
        DataError: there is no sound, or several, or words beside it.
    """
    beside = turn.prompt.replace(MARK, "").strip()
    if [medium.kind for medium in turn.media] != ["audio"] or beside or turn.pair:
        kinds = ", ".join(medium.kind for medium in turn.media) or "no sound"
        raise DataError(
            f"This model hears one sound and nothing else, but the row has {kinds}"
            + (f" and the words {beside[:40]!r}." if beside else "."),
            remedy='Write rows like {"audio": "17.wav", "label": "seven"}, or choose a model that reads words.',
            code="one_sound",
        )


def _same(wanted: tuple[int, int], found: tuple[int, int], where: str) -> None:
    if wanted != found:
        raise ModelError(
            f"preprocessor_config.json makes {found} pitches and frames, config.json reads {wanted}.",
            where=where,
            remedy="Fetch the model again.",
            code="preprocessor",
        )
