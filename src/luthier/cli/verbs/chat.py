"""Talk to a run or a model; /base asks the base the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.answer import answer
from luthier.core.errors import LuthierError, NotFound, SpecError

if TYPE_CHECKING:
    from luthier.inference.chat import Conversation, Settings


def run(
    name: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run (id, folder, last), or a model's name or folder.")],
    prompt: Annotated[str, typer.Option(help="Ask this and leave, instead of a conversation.")] = "",
    system: Annotated[str, typer.Option(help="System prompt; left out, the one a run's rows were tuned under.")] = "",
    temperature: Annotated[
        float, typer.Option(help="0 always takes the likeliest token; 1 draws from the model's own distribution.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw only from the likeliest tokens that hold this share of probability.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    base: Annotated[bool, typer.Option("--base", help="The base answers, not the tuned model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output; needs --prompt.")] = False,
) -> int:
    """Talk to a run or a model. Without a terminal, questions are read from standard input, one a line."""
    if json and not prompt:
        raise SpecError("--json answers one question.", remedy="Give it with --prompt.", code="no_question")
    from luthier.inference.chat import Settings
    from luthier.inference.generate import check_settings

    check_settings(temperature=temperature, top_p=top_p)
    talk = _opened(name, system, Settings(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed))
    if not prompt:
        return _converse(talk, base=base)
    said = []
    for piece in talk.ask(prompt, side="base" if base else "tuned"):
        said.append(piece)
        _write("" if json else piece)
    content = {"name": name, "side": "base" if base else "tuned", "prompt": prompt, "answer": "".join(said)}
    answer(content, json=json, show=lambda: _write("\n"))
    return 0


def _opened(name: str, system: str, settings: Settings) -> Conversation:
    """A run where one is called so, else a model."""
    from luthier.inference.chat import Conversation
    from luthier.inference.sides import Sides
    from luthier.jobs.result import Run
    from luthier.models.load import load
    from luthier.store.runs import find

    try:
        folder = find(name)
    except NotFound as no_run:
        try:
            return Conversation(Sides(load(name)), settings, system)
        except NotFound as no_model:
            what = f"There is neither a run nor a model called {name!r}."
            raise NotFound(what, remedy=f"Runs: {no_run.remedy} Models: {no_model.remedy}", code="unknown_name") from no_model
    return Run(folder).conversation(system=system, settings=settings)


def _converse(talk: Conversation, *, base: bool) -> int:
    """Questions until the end of input. A wrong question is told and does not end the conversation."""
    if sys.stdin.isatty():
        sys.stderr.write("Ask something. /help lists commands, Ctrl-D leaves.\n")
    while True:
        line = _read()
        if line is None or line.strip() == "/quit":
            return 0
        if not line.strip():
            continue
        try:
            _say(talk, line, base=base)
        except LuthierError as error:
            sys.stderr.write(f"{error}\n")
        except KeyboardInterrupt:
            sys.stderr.write("\n(broken off)\n")


def _say(talk: Conversation, line: str, *, base: bool) -> None:
    from luthier.inference.chat import HELP, command

    word, text = command(line)
    match word:
        case "/help":
            sys.stderr.write(HELP + "\n")
        case "/reset":
            talk.reset()
            sys.stderr.write("(forgotten)\n")
        case "/system":
            if text:
                talk.system = text
                talk.reset()
            sys.stderr.write(f"(system prompt: {talk.system or 'none'})\n")
        case "/base":
            _stream(talk, talk.base(text))
        case _:
            _stream(talk, talk.ask(text, side="base" if base else "tuned"))


def _stream(talk: Conversation, pieces: Iterator[str]) -> None:
    for notice in talk.notices:
        sys.stderr.write(f"({notice})\n")
    talk.notices.clear()
    for piece in pieces:
        _write(piece)
    _write("\n")


def _read() -> str | None:
    """The next line, or None at the end of input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
