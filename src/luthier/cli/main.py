"""The command `luthier`: find the verb, run it, and let every error leave through one door.

The folder `verbs/` is the list of commands. `luthier --help` reads the first docstring line of each file and imports none of them (nor
typer), so it answers at once; a verb is imported when it is called, and imports heavy libraries only inside its functions.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from luthier import __version__
from luthier.cli.boundary import guarded
from luthier.core.errors import SpecError, did_you_mean
from luthier.core.registry import Folder

HELP = """Luthier tunes language models on your examples, on your own hardware, and proves whether they got better.

Usage: luthier VERB [ARGUMENTS] [OPTIONS]

  luthier demo                                  the whole job on the bundled model and sample
  luthier data check tickets.jsonl              every problem of a file, before anything is spent
  luthier tune tickets.jsonl --model NAME       check, tune, compare with the base, report
  luthier chat RUN                              talk to the result (/base asks the base the same)

Verbs:
{verbs}

Options of every verb: --help, and --json (one JSON object on standard output, everything else on standard error).
Exit codes: 0 done, 1 the data or the result does not pass, 2 wrong use, 130 interrupted (state saved).
"""


def main() -> None:
    """Entry point of the console script; exits with the verb's code."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    arguments = sys.argv[1:]
    sys.exit(guarded(lambda: dispatch(arguments), json="--json" in arguments))


def dispatch(arguments: list[str]) -> int:
    """Run the verb that `arguments` name.

    Returns:
        exit code.

    Raises:
        SpecError: no such verb or option; the message suggests the nearest.
    """
    verb, *rest = arguments or ["--help"]
    if verb in ("--help", "-h", "help"):
        sys.stdout.write(HELP.format(verbs=_verb_lines()))
        return 0
    if verb in ("--version", "-V", "version"):
        sys.stdout.write(f"luthier {__version__}\n")
        return 0
    if verb.startswith("-"):
        raise SpecError(f"There is no option {verb}.", remedy="`luthier --help` lists verbs and options.", code="unknown_option")
    return _call(verb, rest)


def _as_interrupt(number: int, frame: Any) -> None:
    """SIGTERM means what Ctrl-C means: save, say how to go on, leave."""
    raise KeyboardInterrupt


def _verb_lines() -> str:
    lines = []
    for path in sorted((Path(__file__).parent / "verbs").glob("*.py")):
        if not path.stem.startswith("_"):
            lines.append(f"  {path.stem:<12} {_first_docstring_line(path)}")
    return "\n".join(lines)


def _first_docstring_line(path: Path) -> str:
    with path.open(encoding="utf-8") as source:
        return source.readline().strip().lstrip("r").strip('"').strip()


def _call(verb: str, arguments: list[str]) -> int:
    import typer  # here, so that --help does not pay for it

    module = Folder("luthier.cli.verbs", "verb").load(verb)
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(module.run)
    app._add_completion = False
    command = typer.main.get_command(app)
    try:
        with command.make_context(f"luthier {verb}", arguments) as context:
            result = command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.TyperException as error:
        return _wrong_use(verb, error)
    return result if isinstance(result, int) else 0


def _wrong_use(verb: str, error: Any) -> int:
    """Turn the parser's complaint into ours, with a suggestion where it has candidates."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(error.format_message() + "\n")
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context else f"luthier {verb}"
    remedy = f"`{path} --help` shows what it takes."
    option = getattr(error, "option_name", "")
    if context and type(error).__name__ == "NoSuchOption":
        known = ["--help", *(name for parameter in context.command.params for name in parameter.opts if name.startswith("--"))]
        raise SpecError(f"{path} has no option {option}.", remedy=f"{did_you_mean(option, known)} {remedy}", code="unknown_option")
    raise SpecError(error.format_message(), where=path, remedy=remedy, code="wrong_use") from error


if __name__ == "__main__":
    main()
