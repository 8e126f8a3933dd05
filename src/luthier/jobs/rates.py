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
    headed: list[float] | None = None
    """The same beside a new head, where that differs: its gradients are large before it knows anything."""
    source: str
    """Where the numbers come from."""

    def at(self, parameters: int, *, headed: bool = False) -> float:
        """The rate for a base of so many parameters."""
        rates = self.headed if headed and self.headed else self.rate
        return next(rate for below, rate in zip(self.below, rates, strict=True) if parameters < below)


@cache
def rates() -> dict[str, Rates]:
    """By the name of the method."""
    content = tomllib.loads((Path(__file__).parent / "rates.toml").read_text(encoding="utf-8"))
    return {method: Rates(**fields) for method, fields in content.items()}


def table() -> str:
    """The same for people, as Markdown."""
    lines = ["| method | learning rate by parameters of the base | from |", "|---|---|---|"]
    for method, known in rates().items():
        said = _steps(known.below, known.rate) + (f"; beside a new head {_steps(known.below, known.headed)}" if known.headed else "")
        lines.append(f"| `{method}` | {said} | {known.source} |")
    return "\n".join(lines)


def _steps(below: list[float], rates: list[float]) -> str:
    steps = zip(below, rates, strict=True)
    return ", ".join(f"{rate:g}" if math.isinf(limit) else f"{rate:g} below {_size(limit)}" for limit, rate in steps)


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:g} B" if parameters >= 1e9 else f"{parameters / 1e6:g} M"
