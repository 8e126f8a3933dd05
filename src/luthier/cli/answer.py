"""How a verb answers: JSON for programs, words and tables for people."""

from __future__ import annotations

import json as _json
import sys
from collections.abc import Callable, Iterable
from typing import Any


def answer(content: dict[str, Any], *, json: bool, show: Callable[[], None]) -> None:
    """Put the result of a verb on standard output.

    Args:
        content: the whole result, as plain data.
        json: one JSON object and nothing else; otherwise `show` prints for people.
    """
    if json:
        sys.stdout.write(_json.dumps(content, ensure_ascii=False, default=str) + "\n")
    else:
        show()


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str = "") -> None:
    """Print a plain table on standard output, as wide as its content needs when standard output is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*[str(cell) for cell in row])
    console = Console(highlight=False, markup=False)
    console.print(drawn) if console.is_terminal else Console(highlight=False, markup=False, width=200).print(drawn)
