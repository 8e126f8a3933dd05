"""A conversation with a tuned model, and with its base when asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from luthier.core.errors import DataError, SpecError, did_you_mean
from luthier.core.example import Message
from luthier.inference.keeper import Keeper
from luthier.inference.sides import Side, Sides
from luthier.inference.stream import stream

HELP = """\
/base [TEXT]     ask the base: TEXT, or your last question again, with the same conversation before it
/system [TEXT]   set the system prompt and begin anew; without TEXT, show it
/reset           forget the conversation; the system prompt stays
/help            this
/quit            leave (or Ctrl-D)"""

COMMANDS = ("/base", "/system", "/reset", "/help", "/quit")


@dataclass(frozen=True)
class Settings:
    """How answers are drawn; see `inference.generate.generate`."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Conversation:
    """Turns so far, and who answers.

    Attributes:
        system: the system prompt; empty for none.
        turns: user and assistant in turn, oldest first. What the base says is not kept: the conversation is with the tuned model.
        notices: things the user should be told now; whoever shows them clears the list.
        keeper: what has been read already, so that a turn reads only what is new.
    """

    sides: Sides
    settings: Settings = Settings()
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    keeper: Keeper = field(default_factory=Keeper)

    def ask(self, question: str, *, side: Side = "tuned") -> Iterator[str]:
        """The answer, piece by piece. An answer broken off by the caller is kept as far as it came.

        When the conversation does not fit the model, the oldest turns are dropped and `notices` says how many.

        Raises:
            DataError: the question is empty, no text, or alone longer than the model reads.
        """
        _is_text(question)
        if not question.strip():
            raise DataError("There is no question.", remedy="Type one, or /help.", code="empty_prompt")
        prompt = self._fitting(question)
        settings = replace(self.settings, seed=self.settings.seed + len(self.turns))  # a repeated question may get another answer
        return self._answer(question, prompt, side, settings)

    def base(self, question: str = "") -> Iterator[str]:
        """What the base says to `question`, or to the last one, after the same turns.

        Raises:
            SpecError: nothing was asked yet.
        """
        if question:
            return self.ask(question, side="base")
        if not self.turns:
            raise SpecError("Nothing was asked yet.", remedy="Ask something first, or give the question: /base TEXT.", code="no_question")
        return replace(self, turns=self.turns[:-2], notices=[]).ask(self.turns[-2].content, side="base")

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()

    def _answer(self, question: str, prompt: list[int], side: Side, settings: Settings) -> Iterator[str]:
        said: list[str] = []
        with self.sides.side(side) as model:
            try:
                for piece in stream(
                    model,
                    prompt,
                    max_tokens=settings.max_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=settings.seed,
                    keeper=self.keeper,
                ):
                    said.append(piece)
                    yield piece
            finally:
                if side == "tuned":
                    self.turns += [Message("user", question), Message("assistant", "".join(said))]

    def _fitting(self, question: str) -> list[int]:
        """The prompt, with the oldest turns dropped until it and an answer fit; drops are announced."""
        model = self.sides.model
        room = min(self.settings.max_tokens, model.context // 4)  # an answer needs some room; a quarter is a guess
        dropped = 0
        while True:
            prompt = model.renderer.prompt(self._messages(question))
            if len(prompt) + room <= model.context:
                break
            if not self.turns:
                size = f"{len(prompt):,} tokens with its system prompt"
                what = f"The question has {size}; {model.name} reads {model.context:,}, answer included."
                raise DataError(what, remedy="Shorten it.", code="prompt_too_long")
            del self.turns[:2]
            dropped += 1
        if dropped:
            self.notices.append(
                f"The conversation outgrew the {model.context:,} tokens the model reads: its oldest {dropped} turn(s) are forgotten."
            )
        return prompt

    def _messages(self, question: str) -> list[Message]:
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.turns, Message("user", question)]


def _is_text(question: str) -> None:
    """Bytes of a pipe that are not UTF-8 reach Python as lone surrogates, which no tokenizer takes."""
    try:
        question.encode()
    except UnicodeEncodeError as error:
        what = f"The question is not UTF-8 (character {error.start + 1})."
        raise DataError(what, remedy="Type it again, or convert the file it comes from.", code="invalid_utf8") from error


def command(line: str) -> tuple[str, str]:
    """Split ``/base TEXT`` into command and text; a line that is no command has an empty one.

    Raises:
        SpecError: an unknown command; the nearest is suggested.
    """
    if not line.startswith("/"):
        return "", line
    word, _, text = line.strip().partition(" ")
    if word not in COMMANDS:
        raise SpecError(f"There is no command {word}.", remedy=did_you_mean(word, COMMANDS), code="unknown_command")
    return word, text.strip()
