"""How a model takes rows in, by what its folder says: turns of a conversation, a text or a picture as it stands, pictures among words."""

from __future__ import annotations

from luthier.core.sequence import Pictured
from luthier.data.eyes import Eyes
from luthier.data.folder import Parts
from luthier.data.hearing import Frames, Transcript
from luthier.data.patches import Patches
from luthier.data.plain import Plain
from luthier.data.sources import Sources
from luthier.data.turns import Turn

Manner = Plain | Patches | Sources | Transcript
"""Of rows that no template applies to."""


def plain_of(parts: Parts) -> Manner | None:
    """For rows that no template applies to; None for conversations.

    Raises:
        ModelError: files of the folder contradict each other.
    """
    if parts.reads == "picture":
        return Patches(parts.model, parts.processor, where=parts.where)
    if parts.reads == "sound":
        return Frames(parts.model, parts.processor, where=parts.where)
    if parts.reads == "speech":
        return Transcript(parts.tokenizer, parts.model, parts.processor, parts.end, where=parts.where)
    if parts.reads == "source":
        return Sources(parts.tokenizer, parts.model, parts.end, where=parts.where)
    return Plain(parts.tokenizer, where=parts.where) if parts.reads == "text" else None


def eyes_of(parts: Parts) -> Eyes | None:
    """For conversations with pictures; None for models that read words alone. Raises as `plain_of`."""
    among_words = parts.reads == "turns" and bool(parts.model)
    return Eyes(parts.model, parts.processor, parts.tokenizer, where=parts.where) if among_words else None


def before(manner: Manner, turn: Turn) -> list[int]:
    """What a model without a template reads before its answer, with what it sees or hears.

    Raises:
        DataError: it reads something else.
    """
    manner.admit(turn)
    read = manner.read(turn)
    return Pictured(read, tuple(map(str, turn.media))) if turn.media else read
