"""Line charts as SVG files for the pages: no library, readable on white and on black."""

from __future__ import annotations

import math
from html import escape

from luthier.evaluation.plot import ticks

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 44, 42
COLOURS = ("#2f6f9f", "#c2622d", "#4d8a4d", "#7d5ba6", "#8a7a2f")
"""Dark enough for white paper, light enough for black, told apart by most eyes."""

STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#777}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#999;stroke-opacity:.3}polyline{fill:none;stroke-width:2}.ideal{stroke-dasharray:4 4;stroke-width:1.2}"
)

Points = list[tuple[float, float]]


def chart(title: str, lines: dict[str, Points], *, x: str, y: str, dashed: tuple[str, ...] = (), log: bool = True) -> str:
    """Lines by name over one axis of x, which is logarithmic unless `log` is false; y begins at 0.

    Args:
        dashed: lines that are not measured but drawn to compare with.
    """
    points = [p for line in lines.values() for p in line]
    up = ticks(0.0, max(p[1] for p in points))
    marks = sorted({p[0] for name, line in lines.items() if name not in dashed for p in line})
    low, high = (_scale(v, log) for v in (marks[0], marks[-1]))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = (_scale(point[0], log) - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - point[1] / up[-1] * (HEIGHT - TOP - BOTTOM)

    body = [f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>']
    for value in up:
        height = at((marks[0], value))[1]
        body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        body.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    body += [f'<text x="{at((v, 0))[0]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_short(v)}</text>' for v in _apart(marks, at)]
    body.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x)}</text>')
    body.append(f'<text x="8" y="{TOP - 10}">{escape(y)}</text>')
    for number, (name, line) in enumerate(lines.items()):
        body += _line(name, [at(p) for p in line], COLOURS[number % len(COLOURS)], name in dashed, number)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<style>{STYLE}</style>{''.join(body)}</svg>\n"
    )


def _scale(value: float, log: bool) -> float:
    return math.log2(value) if log else value


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size and value % (size / 10) == 0:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _apart(marks: list[float], at: object) -> list[float]:
    """Those whose numbers do not run into each other."""
    kept: list[float] = []
    for value in marks:
        if not kept or at((value, 0))[0] - at((kept[-1], 0))[0] >= 34:  # type: ignore[operator]
            kept.append(value)
    return kept


def _line(name: str, places: list[tuple[float, float]], colour: str, dashed: bool, number: int) -> list[str]:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    kind = ' class="ideal"' if dashed else ""
    drawn = [f'<polyline{kind} stroke="{colour}" points="{path}"/>']
    if not dashed:
        drawn += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
    left = LEFT + 70 + number * 140
    drawn.append(f'<line{kind} x1="{left}" x2="{left + 18}" y1="{TOP - 14}" y2="{TOP - 14}" stroke="{colour}" stroke-width="2"/>')
    drawn.append(f'<text x="{left + 24}" y="{TOP - 10}">{escape(name)}</text>')
    return drawn
