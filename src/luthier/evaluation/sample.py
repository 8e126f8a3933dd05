"""One row as the model sees it, cut where learning begins and ends."""

from __future__ import annotations

from typing import Any

from luthier.core.sequence import Rows
from luthier.data.render import Renderer


def sample(rows: Rows, renderer: Renderer) -> dict[str, Any]:
    """The first row, cut where learning begins and ends, as the report colours it."""
    if not len(rows):
        return {}
    row = rows[0]
    path = row.sequences[0]
    segments: list[tuple[list[int], bool]] = []
    for token, weight in zip(path.tokens.tolist(), path.weights.tolist(), strict=True):
        if not segments or segments[-1][1] != (weight > 0):
            segments.append(([], weight > 0))
        segments[-1][0].append(token)
    return {
        "source": str(row.source),
        "segments": [{"text": renderer.decode(t), "learned": learned, "tokens": len(t)} for t, learned in segments],
    }
