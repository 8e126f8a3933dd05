"""Learning rates where nobody chose one, by method and size of the base; the numbers and their sources are in ``rates.toml``."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path

from luthier.core.spec import Strict


class Rates(Strict):
    """The rates of one method."""

    below: list[float]
    """Parameters of the base below which the rate of the same place holds; the last is infinite."""
    rate: list[float]
    """Highest learning rate of the schedule."""
    source: str
    """Where the numbers come from."""

    def at(self, parameters: int) -> float:
        """The rate for a base of so many parameters."""
        return next(rate for below, rate in zip(self.below, self.rate, strict=True) if parameters < below)


@cache
def rates() -> dict[str, Rates]:
    """By the name of the method."""
    content = tomllib.loads((Path(__file__).parent / "rates.toml").read_text(encoding="utf-8"))
    return {method: Rates(**fields) for method, fields in content.items()}


def table() -> str:
    """The same for people, as Markdown."""
    lines = ["| method | learning rate by parameters of the base | from |", "|---|---|---|"]
    for method, known in rates().items():
        steps = zip(known.below, known.rate, strict=True)
        said = ", ".join(f"{rate:g}" if math.isinf(below) else f"{rate:g} below {_size(below)}" for below, rate in steps)
        lines.append(f"| `{method}` | {said} | {known.source} |")
    return "\n".join(lines)


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:g} B" if parameters >= 1e9 else f"{parameters / 1e6:g} M"
