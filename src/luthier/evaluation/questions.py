"""Held-out rows as questions: the prompt a server would see, and the answer that is expected."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.core.example import Example, Message
from luthier.data.render import Renderer
from luthier.models.model import Model


@dataclass(frozen=True)
class Question:
    """One row to be answered.

    Attributes:
        example: the row. prompt: token ids before its last answer. expected: that answer as text.
    """

    example: Example
    prompt: list[int]
    expected: str

    @property
    def messages(self) -> list[Message]:
        """What is read before the answer."""
        return before_last_answer(self.example)


def questions(model: Model, examples: list[Example], *, most: int) -> tuple[list[Question], list[str]]:
    """Up to `most` rows, evenly spread over `examples`, as questions.

    Returns:
        the questions, and notes about rows that cannot be asked: plain text, or a prompt that leaves no room for an answer.
    """
    askable = [e for e in examples if e.form != "text" and _answer_of(e) is not None]
    notes = (
        []
        if len(askable) == len(examples)
        else [f"{len(examples) - len(askable)} held-out rows hold no answer to generate; they count in the loss."]
    )
    chosen = spread(askable, most)
    asked = [Question(e, model.renderer.prompt_of(e), expected_answer(e, model.renderer)) for e in chosen]
    fitting = [q for q in asked if 0 < len(q.prompt) < model.context]
    if len(fitting) < len(asked):
        first = next(q for q in asked if q not in fitting)
        notes.append(f"{len(asked) - len(fitting)} prompts leave no room for an answer and are not asked, first {first.example.source}.")
    return fitting, notes


def spread(examples: list[Example], most: int) -> list[Example]:
    """At most `most` of `examples`, evenly spaced, first one included."""
    if len(examples) <= most:
        return examples
    return [examples[i * len(examples) // most] for i in range(most)]


def before_last_answer(example: Example) -> list[Message]:
    """The messages a model reads before it writes the last answer."""
    if example.sided:
        return example.messages
    last = max((n for n, m in enumerate(example.messages) if m.role == "assistant"), default=len(example.messages))
    return example.messages[:last]


def expected_answer(example: Example, renderer: Renderer) -> str:
    """The last answer as the model would write it; thinking and tool calls in the words of the template."""
    message = _answer_of(example)
    if message is None:
        return ""
    if not message.tool_calls and not message.thinking:
        return message.content
    messages = [*example.messages, *example.chosen]
    place = max(n for n, m in enumerate(messages) if m.role == "assistant")
    _, tokens = renderer.encode_turn(renderer.turn(messages, place, tools=example.tools))
    return renderer.decode([token for token in tokens if token not in renderer.end_tokens])


def _answer_of(example: Example) -> Message | None:
    said = example.chosen if example.sided else example.messages
    return next((m for m in reversed(said) if m.role == "assistant"), None)
