"""What a person sees while a run happens: a live bar on a terminal, sparse plain lines anywhere else. Always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from luthier.core.events import Event, Note, Progress, Saved, Stage, Stepped, Validated

if TYPE_CHECKING:
    from rich.progress import TaskID

QUIET_SECONDS = 10.0
"""Between two plain lines of the same stage: a log of an hour stays readable."""


class Screen(Protocol):
    """A listener that owns a piece of the screen while it is open."""

    def __enter__(self) -> Screen: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def __call__(self, event: Event) -> None: ...


def screen() -> Screen:
    """The listener that suits standard error."""
    return Live() if sys.stderr.isatty() else Lines()


class Lines:
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.spoke = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.flush()

    def __call__(self, event: Event) -> None:
        text = self._text(event)
        if text:
            sys.stderr.write(text + "\n")

    def _text(self, event: Event) -> str:
        match event:
            case Stage():
                self.spoke = time.monotonic()
                return _stage(event)
            case Note():
                return _note(event)
            case Stepped():
                self.pace.add(event)
                return self._rarely(f"  {_stepped(event)}  {self.pace}", always=event.step in (1, event.of))
            case Validated():
                return f"  {_validated(event)}"
            case Progress():
                return self._rarely(f"  {event.done:,}{f' of {event.total:,}' if event.total else ''} {event.unit}", always=False)
        return ""

    def _rarely(self, text: str, *, always: bool) -> str:
        if not always and time.monotonic() - self.spoke < QUIET_SECONDS:
            return ""
        self.spoke = time.monotonic()
        return text


class Live:
    """A live bar for the present stage; what stays is printed above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[said]}"),
        )
        self.bar = Bar(*columns, console=self.console, transient=True)
        self.task: TaskID | None = None
        self.pace = Pace()

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Stage():
                self._clear()
                self._print(_stage(event), style="bold")
            case Note():
                self._print(_note(event), style="yellow" if event.level == "warning" else "dim")
            case Stepped():
                self.pace.add(event)
                self._advance("tune", event.step, event.of, f"loss {event.loss:.3f}  {self.pace}")
            case Validated():
                self._print(f"  {_validated(event)}", style="dim")
            case Progress():
                self._advance(event.stage, event.done, event.total, event.unit)
            case Saved():
                pass

    def _print(self, text: str, *, style: str) -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def _advance(self, stage: str, done: int, total: int, said: str) -> None:
        if self.task is None:
            self.task = self.bar.add_task(stage, total=total or max(done, 1), said="")
        self.bar.update(self.task, description=stage, completed=done, total=total or max(done, 1), said=said)

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


class Pace:
    """Tokens per second and time left, over the last steps."""

    SHARE = 0.1
    """Weight of the newest step in the running mean."""

    def __init__(self) -> None:
        self.seconds = self.tokens = 0.0
        self.left = 0

    def add(self, event: Stepped) -> None:
        """Take one step into account."""
        fresh = self.seconds == 0
        self.seconds = event.seconds if fresh else (1 - self.SHARE) * self.seconds + self.SHARE * event.seconds
        self.tokens = event.tokens if fresh else (1 - self.SHARE) * self.tokens + self.SHARE * event.tokens
        self.left = event.of - event.step

    def __str__(self) -> str:
        return f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s  {_duration(self.left * self.seconds)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _stage(event: Stage) -> str:
    return f"{event.name:<9} {event.detail}".rstrip()


def _note(event: Note) -> str:
    return f"  {'warning: ' if event.level == 'warning' else ''}{event.text}"


def _stepped(event: Stepped) -> str:
    return f"step {event.step} of {event.of}  loss {event.loss:.3f}"


def _validated(event: Validated) -> str:
    return f"held-out loss {event.loss:.4f} after step {event.step}{', the best so far' if event.best else ''}"
