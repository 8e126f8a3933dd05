"""Small line charts as inline SVG: no script, no network, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 34
"""Room around the plotting area for numbers, in the units of the view box."""


@dataclass(frozen=True)
class Line:
    """One curve. `kind` is a CSS class of the report: ``train``, ``held-out`` or ``rate``; `dots` marks each point."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def chart(lines: Sequence[Line], *, x: str, y: str, width: int = WIDTH) -> Markup:
    """A line chart. Points that are not finite are left out; with no points at all there is no chart.

    Args:
        x, y: what the axes count. width: of the view box; a chart shown small needs a small one, so that its letters stay readable.
    """
    lines = [Line(c.name, c.kind, [p for p in c.points if all(map(math.isfinite, p))], c.dots) for c in lines]
    points = [point for curve in lines for point in curve.points]
    if not points:
        return Markup("")
    up = ticks(min(p[1] for p in points), max(p[1] for p in points))
    place = _Place((min(p[0] for p in points), max(p[0] for p in points)), up, width)
    body = [*_grid(place, x, y), *(piece for curve in lines for piece in _curve(place, curve))]
    names = ", ".join(curve.name for curve in lines)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(names)} by {escape(x)}">'
        + "".join(body)
        + "</svg>"
    )


def whisker(low: float, value: float, high: float) -> Markup:
    """A difference and its interval beside the line of no difference."""
    reach = max(abs(low), abs(high), 1e-12)
    a, b, c = (60 + 52 * number / reach for number in (low, value, high))
    shapes = f'<line class="zero" x1="60" x2="60" y1="2" y2="18"/><line class="span" x1="{a:.1f}" x2="{c:.1f}" y1="10" y2="10"/>'
    return Markup(f'<svg class="whisker" viewBox="0 0 120 20" aria-hidden="true">{shapes}<circle cx="{b:.1f}" cy="10" r="3.5"/></svg>')


def ticks(low: float, high: float, *, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Place:
    """From values to the units of the view box."""

    def __init__(self, ends: tuple[float, float], up: list[float], width: int) -> None:
        self.ends, self.up, self.width = ends, up, width
        self.across = [tick for tick in ticks(*ends, about=width // 110, whole=True) if ends[0] <= tick <= ends[1]]

    def x(self, value: float) -> float:
        return LEFT + (value - self.ends[0]) / ((self.ends[1] - self.ends[0]) or 1) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.up[0]) / (self.up[-1] - self.up[0]) * (HEIGHT - TOP - BOTTOM)


def _grid(place: _Place, x: str, y: str) -> list[str]:
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{place.width - RIGHT}" y1="{place.y(v):.1f}" y2="{place.y(v):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{place.y(v) + 4:.1f}" text-anchor="end">{v:.6g}</text>'
        for v in place.up
    ]
    columns = [f'<text x="{place.x(v):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{v:.6g}</text>' for v in place.across]
    names = f'<text class="axis" x="{place.width - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x)}</text>'
    return [*rows, *columns, names, f"<title>{escape(y)}</title>"]


def _curve(place: _Place, curve: Line) -> list[str]:
    if not curve.points:
        return []
    path = " ".join(f"{place.x(a):.1f},{place.y(b):.1f}" for a, b in thinned(curve.points))
    drawn = [f'<polyline class="{escape(curve.kind)}" points="{path}"/>']
    if curve.dots:
        drawn += [f'<circle class="{escape(curve.kind)}" cx="{place.x(a):.1f}" cy="{place.y(b):.1f}" r="3"/>' for a, b in curve.points]
    return drawn


def thinned(points: Sequence[tuple[float, float]], *, most: int = 600) -> Sequence[tuple[float, float]]:
    """At most about `most` points, each the mean of its neighbours: more cannot be seen on a chart 640 units wide."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if size > 1 else []
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups] or points
