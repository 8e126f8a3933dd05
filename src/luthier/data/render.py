"""The one place where messages become tokens: training, evaluation, chat and the service all render through a `Renderer`."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Message
from luthier.core.files import fingerprint
from luthier.core.sequence import Pictured, Sequence
from luthier.data.folder import Parts, read_parts, write_parts
from luthier.data.hearing import Transcript
from luthier.data.manners import before, eyes_of, plain_of
from luthier.data.media import Pictures
from luthier.data.patches import Patches
from luthier.data.paths import Paths
from luthier.data.plain import asked, question, whole
from luthier.data.probe import approve
from luthier.data.refusals import blind, teaches_nothing
from luthier.data.shape import shape_of
from luthier.data.template import BUILT_IN, CHATML, PLAIN, PLAIN_BEGUN, TODAY, Template
from luthier.data.turns import MARKER, Ending, Script, Strand, Turn, learned_turns
from luthier.data.unrendered import refuse_unrendered

VERSION = 1
"""Raised when the same row and model give other tokens than before: caches and certificates then know."""


class Renderer:
    """Tokenizer and chat template of one model.

    Attributes:
        fingerprint: hash of everything that decides token ids.
        end_tokens: ids that end an answer, from the model's files and from its template.
        end_token: the one a learned answer ends with. vocab_size: one more than the largest id.
        has_template: the model came with a chat template of its own; else a built-in one is used, and `notes` says so.
        eyes: how pictures stand among words; None for models that read words alone.
        plain: how rows are read where no template applies (encoders, classifiers of pictures); None for everybody else.
        notes: what a user should read once about this model's rendering.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.tokenizer = parts, parts.tokenizer
        self.vocab_size = self.tokenizer.size
        self.notes: list[str] = []
        self.plain, self.eyes, self._pictures = plain_of(parts), eyes_of(parts), Pictures()
        self._sees = self.plain if isinstance(self.plain, Patches | Transcript) else self.eyes
        sources = {name: source for name, source in parts.templates.items() if source not in BUILT_IN and self.plain is None}
        self.has_template = "default" in sources
        if not self.has_template and self.plain is None:
            sources = {"default": self._built_in()}
        for source in sources.values():
            approve(source, variables=parts.variables, where=parts.where)
        self.sources = sources
        self._scripts = {name: self._script(source) for name, source in sources.items()}
        self.end_token = self.plain.end if self.plain else self.script.ending.token
        ends = {self.end_token} if self.plain else parts.ends
        self.end_tokens = frozenset(ends | {script.ending.token for script in self._scripts.values()})
        self.fingerprint = fingerprint(
            [
                VERSION,
                self.tokenizer.fingerprint,
                sources,
                parts.variables,
                str(TODAY),
                sorted(self.end_tokens),
                parts.prefix,
                self.has_template,
                (repr(self._sees.plan), self._sees.count) if self._sees else "",
            ]
        )

    @property
    def script(self) -> Script:
        """The template of conversations without tools; an encoder has none."""
        return self._scripts["default"]

    @classmethod
    def from_folder(cls, folder: Path) -> Renderer:
        """Read a model folder in the Hugging Face layout.

        Raises:
            ModelError: no tokenizer, no end token, or a chat template that does not behave.
        """
        return cls(read_parts(folder))

    def save(self, folder: Path) -> None:
        """Write tokenizer and template, frozen as used, so that `from_folder` and other software render alike."""
        write_parts(self.parts, folder, templates=self.sources, ends=self.end_tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text, with no special tokens put around it."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of ids, special tokens included."""
        return self.plain.words(tokens) if self.plain else self.tokenizer.decode(tokens)

    def length(self, path: Sequence) -> int:
        """Tokens of a path that the network reads; an encoder's answer is none of them."""
        return self.plain.length(path) if self.plain else len(path.tokens)

    def picture(self, reference: str) -> NDArray[np.float32]:
        """A picture of a row as the network reads it, float32 ``[3, H, W]``.

        Raises:
            DataError: its file is gone, or has changed since it was checked.
        """
        assert self._sees is not None, "rows have pictures only where the model reads them"
        return self._pictures.get(reference, self._sees.plan)

    def prompt(self, messages: list[Message], *, tools: Several[dict[str, object]] = ()) -> list[int]:
        """What the server feeds before the model's next answer.

        Raises:
            DataError: the template refuses the conversation, or the model reads none.
        """
        if self.plain:
            return before(self.plain, asked(messages))
        text = self._for(tools).text(messages, tools=tools, generate=True)
        if self.eyes is None:
            return self.tokenizer.encode(text)
        media = tuple(str(medium) for message in messages for medium in message.media)
        self.eyes.expect(text, len(media))
        return Pictured(self.tokenizer.encode(self.eyes.spread(text)), media)

    def prompt_of(self, example: Example) -> list[int]:
        """What precedes the last answer of a row (for a pair: its two answers): evaluation generates from here."""
        if self.plain:
            return before(self.plain, question(example, self.plain))
        if example.form == "text":
            return list(self.parts.prefix)
        if self.joins(example):
            return self.parts.prefix + self.tokenizer.encode(example.messages[0].content)
        if example.sided:
            return self.prompt(example.messages, tools=example.tools)
        last = max((n for n, message in enumerate(example.messages) if message.role == "assistant"), default=len(example.messages))
        return self.prompt(example.messages[:last], tools=example.tools)

    def render(self, example: Example, *, learn: str = "answers") -> list[Sequence]:
        """Token paths of a row, with what is learned in them.

        Args:
            learn: ``answers`` (every assistant turn by its weight), ``last_answer``, or ``everything`` (all tokens, each once).

        Raises:
            DataError: the template refuses the row (``template_refuses``), leaves a field out (``unrendered``), or there is nothing to
                learn from (``nothing_learned``). `where` names file, row and field.
        """
        return [sequence for strand in self.strands(example, learn=learn) for sequence in self.lay(strand)]

    def strands(self, example: Example, *, learn: str = "answers") -> list[Strand]:
        """The row as text, before anything is encoded: one strand, or two for a pair. Raises as `render` does."""
        try:
            return self._strands(example, learn)
        except DataError as error:
            if error.where:
                raise
            raise DataError(error.what, where=str(example.source), remedy=error.remedy, code=error.code) from error

    def warm(self, strands: Iterable[Strand]) -> None:
        """Encode the texts of many strands in one batch; laying them out then only looks ids up."""
        if self.plain:
            self.tokenizer.warm([text for strand in strands for turn in strand.turns for text in (turn.prompt, turn.pair)])
            return
        spread = self.eyes.spread if self.eyes else str
        self.tokenizer.warm([spread(text) for strand in strands for text in strand.texts()])

    def lay(self, strand: Strand) -> list[Sequence]:
        """The token paths of a strand."""
        paths, rewritten = Paths(), False
        for turn in strand.turns:
            prompt, answer = self.encode_turn(turn)
            read_only = rewritten or not strand.everything
            paths.add(strand.prefix + prompt, answer, weight=turn.weight, prompt_weight=0.0 if read_only else 1.0)
            rewritten = rewritten or turn.weight == 0  # where a turn of weight 0 is rewritten later, it cannot be told from its neighbours
        if self.plain:
            (path,) = paths.sequences()
            return [replace(path, media=tuple(map(str, strand.turns[0].media)))]
        if strand.tail:
            tail = self.eyes.spread(strand.tail) if self.eyes else strand.tail
            paths.add(self.tokenizer.encode(tail), [], weight=0.0, prompt_weight=0.0 if rewritten else 1.0)
        sequences = paths.sequences(strand.part)
        return [self.eyes.seen(path, strand.media) for path in sequences] if self.eyes else sequences

    def encode_turn(self, turn: Turn) -> tuple[list[int], list[int]]:
        """Ids of prompt and answer.

        The prompt is encoded as a whole, as the server does. The answer's ids are those it has behind the prompt, where the prompt's
        own ids are unchanged by it; where they would merge across the boundary, the answer is encoded by itself.
        """
        if self.plain:
            return self.plain.read(turn), self.plain.spell(turn.answer)
        texts = [turn.prompt, turn.prompt + turn.answer]
        prompt, whole = self.tokenizer.encode_many([self.eyes.spread(text) for text in texts] if self.eyes else texts)
        answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._alone(turn.answer)
        return prompt, answer if answer and answer[-1] in self.end_tokens else [*answer, self.end_token]

    def turn(self, messages: Several[Message], index: int, *, tools: Several[dict[str, object]] = ()) -> Turn:
        """One answer in its place, as text."""
        if self.plain:
            return replace(asked(messages[:index]), answer=messages[index].content, weight=messages[index].weight, index=index)
        return self._for(tools).turn(messages, index, tools=tools)

    def _strands(self, example: Example, learn: str) -> list[Strand]:
        everything = learn == "everything"
        if self.plain:
            return [Strand([whole(example, self.plain)])]
        kinds = {"image"} if self.eyes else set[str]()
        if any(
            medium.kind not in kinds for each in (example.messages, example.chosen, example.rejected) for m in each for medium in m.media
        ):
            raise blind()
        if example.form == "text":
            return [Strand([Turn("", example.text, 1.0, 0)], prefix=self.parts.prefix)]
        if self.joins(example):
            prompt, answer = example.messages
            return [Strand([Turn(prompt.content, answer.content, answer.weight, 1)], prefix=self.parts.prefix, everything=everything)]
        if example.sided:
            sides = {"chosen": example.chosen, "rejected": example.rejected}
            return [self._strand(example, learn, answer, side) for side, answer in sides.items() if answer]
        return [self._strand(example, learn)]

    def _strand(self, example: Example, learn: str, continuation: Several[Message] = (), part: str = "") -> Strand:
        messages = [*example.messages, *continuation]
        places = learned_turns(messages, learn, start=len(example.messages) if part else 0)
        turns = [self.turn(messages, place, tools=example.tools) for place in places]
        if not any(turn.weight > 0 for turn in turns) and learn != "everything":
            raise teaches_nothing(example.source)
        refuse_unrendered(example, messages, turns)
        tail = ""
        if learn == "everything" and (not turns or turns[-1].index + 1 < len(messages)):
            tail = self._for(example.tools).text(messages, tools=example.tools, generate=False)
        media = self._looked_at(messages, turns, tail) if self.eyes else ()
        return Strand(turns, part=part, tail=tail, everything=learn == "everything", media=media)

    def _looked_at(self, messages: Several[Message], turns: list[Turn], tail: str) -> tuple[str, ...]:
        """The pictures of a conversation; each turn must show those before it, and no more."""
        assert self.eyes is not None
        for turn in turns:
            self.eyes.expect(turn.prompt + turn.answer, sum(len(message.media) for message in messages[: turn.index + 1]))
        media = tuple(str(medium) for message in messages for medium in message.media)
        if tail:
            self.eyes.expect(tail, len(media))
        return media

    def joins(self, example: Example) -> bool:
        """Whether prompt and answer are simply joined: a plain pair for a model without a chat template of its own."""
        if example.form != "completion" or self.has_template:
            return False
        return len(example.messages) == 2 and not example.messages[0].media

    def _alone(self, answer: str) -> list[int]:
        # behind a line break, so that tokenizers which put a space before a text's first word do not do so here
        line, broken = self.tokenizer.encode_many(["\n", "\n" + answer])
        return broken[len(line) :] if broken[: len(line)] == line else self.tokenizer.encode(answer)

    def _for(self, tools: Several[object]) -> Script:
        return self._scripts.get("tool_use", self.script) if tools else self.script

    def _built_in(self) -> str:
        if {"<|im_start|>", "<|im_end|>"} <= self.tokenizer.added.keys():
            self.notes.append("The model has no chat template; conversations are written in ChatML.")
            return CHATML
        self.notes.append(
            "The model has no chat template; conversations are written in plain words (User:, Assistant:), see docs/rendering.md."
        )
        return PLAIN_BEGUN if self.parts.prefix else PLAIN

    def _script(self, source: str) -> Script:
        template = Template(source, variables=self.parts.variables)
        if "strftime_now" in source:
            self.notes.append(f"The chat template writes the date; it always reads {TODAY:%d %b %Y}, so that tokens never change.")
        shape = replace(shape_of(template), picture=self.eyes.token if self.eyes else "")
        talk = shape.messages([Message("user", "Question"), Message("assistant", MARKER)])
        ending = self._ending(template.render(talk, generate=False).rpartition(MARKER)[2])
        texts = [self.tokenizer.text_of(token) for token in sorted(self.parts.ends | {ending.token})]
        return Script(template, shape, ending, end_texts=[text for text in texts if text])

    def _ending(self, suffix: str) -> Ending:
        found = self.tokenizer.first_added(suffix)
        if found is not None:
            return Ending(suffix, suffix[: found[1]], found[0])
        if self.parts.end is None:
            raise ModelError(
                "The model names no end token, and its chat template writes none.",
                where=self.parts.where,
                remedy="Add eos_token_id to config.json or eos_token to tokenizer_config.json.",
                code="no_end_token",
            )
        if self.has_template:
            self.notes.append("The chat template ends answers without a token of its own; the model's end token is learned there.")
        return Ending(suffix, "", self.parts.end)
