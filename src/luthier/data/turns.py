"""A conversation as the server would live it: for each answer, the prompt it is given and the words it must produce.

The answer to turn t is learned after ``prompt(messages[:t])`` and after nothing else. Its words are what the template adds to that prompt
when the turn is there, up to and including the token that ends a turn. Three ways a template can write a turn:

1. ``full = prompt + answer + end``: most templates. The answer is the rest of `full`.
2. The prompt opens the turn otherwise than the finished turn is shown (DeepSeek-R1 opens with ``<think>``; Mistral shows the system turn
   only in the last question). The answer is what follows the finished turn's own opening, found by rendering a marker in its place.
3. The prompt leaves ``<think>`` open: then the answer begins with the thinking (perhaps none) and closes it, as the model must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from luthier.core.errors import DataError
from luthier.core.example import Medium, Message
from luthier.data.outline import Asked, Outlines, hole
from luthier.data.shape import Shape
from luthier.data.template import Template

MARKER = "Zyxwv7Qmarker"


@dataclass(slots=True, frozen=True)
class Ending:
    """How a template ends an assistant turn.

    Attributes:
        suffix: all it writes after the words of a last assistant turn, e.g. ``<|im_end|>`` and a line break.
        text: the part of it that the model must produce: up to and including the token that ends the turn; empty when there is none.
        token: that token; the model's own end token where the template writes none.
    """

    suffix: str
    text: str
    token: int


@dataclass(slots=True, frozen=True)
class Turn:
    """One answer in its place.

    Attributes:
        prompt: text before it, as the server renders it.
        answer: text of the answer with its end (an end the template does not write is added as a token, see `Ending.token`).
        weight: how much it is learned. index: its place in the messages.
        pair: a second text behind the prompt, for models that read two. media: pictures in the prompt, where its marks are.
    """

    prompt: str
    answer: str
    weight: float
    index: int
    pair: str = ""
    media: tuple[Medium, ...] = ()


@dataclass(slots=True, frozen=True)
class Strand:
    """The answers of one conversation (or one side of a pair), ready to be encoded.

    Attributes:
        prefix: ids before every prompt, where no template writes them.
        tail: the whole conversation, when words after its last answer are learned too.
        everything: prompts are learned as well. part: ``chosen`` or ``rejected`` for a pair.
        media: pictures of the conversation, in order.
    """

    turns: list[Turn]
    part: str = ""
    prefix: list[int] = field(default_factory=list)
    tail: str = ""
    everything: bool = False
    media: tuple[str, ...] = ()

    def texts(self) -> list[str]:
        """All texts that will be encoded."""
        texts = [text for turn in self.turns for text in (turn.prompt, turn.prompt + turn.answer)]
        return [*texts, self.tail] if self.tail else texts


class Script:
    """Turns a conversation into `Turn` objects with one template."""

    def __init__(self, template: Template, shape: Shape, ending: Ending, *, end_texts: Sequence[str] = ()) -> None:
        self.template, self.shape, self.ending = template, shape, ending
        self.end_texts = tuple(end_texts)
        self._outlines = Outlines(template, shape)

    def text(self, messages: Sequence[Message], *, tools: Sequence[dict[str, object]] = (), generate: bool) -> str:
        """The conversation as text."""
        text = None if tools else self._outlines.text(messages, generate=generate)
        return text if text is not None else self.template.render(self.shape.messages(messages), tools=tools, generate=generate)

    def turn(self, messages: Sequence[Message], index: int, *, tools: Sequence[dict[str, object]] = ()) -> Turn:
        """The answer at `index`, rendered as the server would at that moment.

        Raises:
            DataError: the template refuses the conversation so far, or shows the turn in no way that can be told from its prompt.
        """
        prompt = self.text(messages[:index], tools=tools, generate=True)
        full = self.text(messages[: index + 1], tools=tools, generate=False)
        said = messages[index]
        opening = prompt if full.startswith(prompt) else self._opening(messages, index, tools)
        body = _body(prompt, full, opening, said.thinking)
        if body is None:
            raise DataError(
                "The model's chat template shows this answer so that it cannot be told from what precedes it.",
                remedy="Leave the row out, or choose a model with another template.",
                code="template_refuses",
            )
        return Turn(prompt, self._ended(body), said.weight, index)

    def outlined(self, roles: Sequence[str], index: int) -> tuple[str, str, tuple[Asked, ...]] | None:
        """`turn` with marks for the contents: prompt, answer, and what is assumed of the contents; None where outlines cannot tell."""
        prompt, full = self._outlines.drawn(roles[:index], generate=True), self._outlines.drawn(roles[: index + 1], generate=False)
        if prompt is None or full is None:
            return None
        opening, ending = prompt.text, self.ending
        if not full.text.startswith(opening):
            opening = max((full.text.rpartition(hole(place))[0] for place in (index, ~index)), key=len)
        body = _body(prompt.text, full.text, opening, "")
        if not body or not ending.text or not body.endswith(ending.suffix):
            return None
        return prompt.text, self._ended(body), (*prompt.asked, *full.asked)

    def _opening(self, messages: Sequence[Message], index: int, tools: Sequence[dict[str, object]]) -> str | None:
        """What the template writes before the words of a turn; None where it cannot be told."""
        marked = replace(messages[index], content=MARKER, thinking="", tool_calls=[])
        opening, found, _ = self.text([*messages[:index], marked], tools=tools, generate=False).rpartition(MARKER)
        return opening if found else None

    def _ended(self, body: str) -> str:
        """`body` up to and including the end of the turn."""
        if body.endswith(self.ending.suffix):
            return body[: len(body) - len(self.ending.suffix)] + self.ending.text
        ends = [body.rfind(text) + len(text) for text in self.end_texts if text in body]
        if ends and not body[max(ends) :].strip():
            return body[: max(ends)]
        return body.rstrip() + self.ending.text


def _body(prompt: str, full: str, opening: str | None, thinking: str) -> str | None:
    """What `full` adds to the opening of a turn; before it the thinking that `prompt` leaves open."""
    if opening is None or not full.startswith(opening):
        return None
    body = full[len(opening) :]
    if opening != prompt and prompt.rstrip().endswith("<think>"):
        return ("" if prompt.endswith("\n") else "\n") + f"{thinking}\n</think>\n\n{body}"
    return body


def learned_turns(messages: Sequence[Message], learn: str, *, start: int = 0) -> list[int]:
    """Places of the assistant turns that are learned: all of positive weight from `start` on, or only the last assistant turn."""
    answers = [number for number, message in enumerate(messages) if message.role == "assistant" and number >= start]
    if learn == "last_answer":
        answers = answers[-1:]
    return answers if learn == "everything" else [number for number in answers if messages[number].weight > 0]
