"""What every row of a file answers, as its owner wrote it, without the rest of the row: what heads learn to say.

Tokens do not keep it: a tokenizer may lower its case or part its words.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.example import Example, Message, Source
from luthier.data.json_rows import Record
from luthier.data.read import read, records
from luthier.data.recognise import recognise


class Answer(NamedTuple):
    """A row's last answer.

    Attributes:
        words: those it gives a tag each, where it does. asked: what it answers. worse: the answer not to be given, where there is one.
        media: pictures and sounds of what is asked, of the answer, and of the worse one, each in the order of the marks in its words.
    """

    text: str
    words: tuple[str, ...] = ()
    asked: str = ""
    worse: str = ""
    media: tuple[tuple[str, ...], ...] = ((), (), ())


class Answers:
    """The answers of a file's rows, read when the first is asked for.

    Args:
        format: name of a reader, or auto.
    """

    def __init__(self, format: str = "auto") -> None:
        self.format = format

    def of(self, source: Source) -> Answer:
        """What this row answers."""
        path = Path(source.file)
        return _answers(path, path.stat().st_mtime_ns, self.format)[source.row]


@lru_cache(maxsize=4)
def _answers(path: Path, _: int, format: str) -> dict[int, Answer]:
    return {item.source.row: answer(item) for item in read(path, format=format) if isinstance(item, Example)}


def answer(example: Example) -> Answer:
    """The last answer of a row."""
    said = example.chosen if example.sided else example.messages
    last = next((place for place in reversed(range(len(said))) if said[place].role == "assistant"), len(said))
    before = example.messages if example.sided else said[:last]
    none = Message("user")
    asked = next((message for message in reversed(before) if message.role == "user"), none)
    told, worse = said[last] if last < len(said) else none, example.rejected[-1] if example.rejected else none
    media = tuple(tuple(map(str, message.media)) for message in (asked, told, worse))
    return Answer(told.content.strip(), tuple(example.words), asked.content.strip(), worse.content.strip(), media)


class Items:
    """The fields of a file's rows as they stand there, read when the first is asked for: what graders look at.

    Args:
        format: name of a reader, or auto.
    """

    def __init__(self, format: str = "auto") -> None:
        self.format = format

    def of(self, source: Source) -> dict[str, Any]:
        """The row's fields, and ``answer``: its own last answer, where it has one and no field is called so."""
        path = Path(source.file)
        changed = path.stat().st_mtime_ns
        known = _answers(path, changed, self.format).get(source.row)
        return {**({"answer": known.text} if known else {}), **_fields(path, changed, self.format)[source.row]}


@lru_cache(maxsize=2)
def _fields(path: Path, _: int, format: str) -> dict[int, dict[str, Any]]:
    return {item.row: item.fields for item in records(path, recognise(path, format=format)) if isinstance(item, Record)}
