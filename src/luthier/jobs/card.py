"""card.md: what a stranger must know before using the tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.spec import Spec
from luthier.jobs import specs

MOST_SHOWN = ("epochs", "max_steps", "rows_per_step", "learning_rate", "schedule", "seed")


def card(spec: Spec, *, summary: dict[str, Any], capsule: dict[str, Any], rows: int, held_out: int) -> str:
    """The card as Markdown.

    Args:
        summary: ``evaluation/summary.json``; empty when nothing was compared.
    """
    verdict = summary.get("verdict", {}).get("sentence", "It was not compared with its base.")
    data = capsule["data"]["training"]
    return f"""---
base_model: {Path(spec.model.name).name}
library_name: {"transformers" if specs.moves_weights(spec) else "peft"}
tags: [luthier, {spec.method.name}, {spec.objective.name}]
---
# {Path(spec.data.file).stem}: {Path(spec.model.name).name} tuned with {spec.method.name}

{verdict}

| | |
|---|---|
| base | {Path(spec.model.name).name} |
| method | {_options(spec.method.name, spec.method.options)} |
| objective | {_options(spec.objective.name, spec.objective.options)} |
| data | {data["file"]}, {rows:,} rows learned, {held_out:,} held out, sha256 {data["sha256"][:16]} |
| numbers | {_options("", {name: getattr(spec.train, name) for name in MOST_SHOWN})} |
| made with | luthier {capsule["luthier"]}, torch {capsule["versions"]["torch"]} |

The comparison with the base was made on the {held_out:,} held-out rows only; it says nothing about other uses. `report.html` shows the best
and worst answers, `evaluation/items.jsonl` all of them. Licence and limits of the base apply to what is built on it.
"""


def _options(name: str, options: dict[str, Any]) -> str:
    said = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({said})" if name and said else name or said
