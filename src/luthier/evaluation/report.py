"""The report: one page that stands by itself. It asks nothing of any network, runs no script, and escapes whatever the data says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from luthier.core.files import write_text
from luthier.evaluation.items import Item, read_items
from luthier.evaluation.plot import Line, chart, whisker
from luthier.store.runs import RunFolder

SHOWN = 4
"""Items shown on either end of the scale."""

PERCENT = (
    "reward_accuracy",
    "pair_accuracy",
    "exact_match",
    "label_accuracy",
    "chrf",
    "rouge_l",
    "stop_rate",
    "token_accuracy",
    "choice_accuracy",
)


def report(folder: Path) -> Path:
    """Write ``report.html`` from whatever files of the run are there; parts that are missing are left out, and said to be.

    Returns:
        the page.
    """
    run = RunFolder(folder)
    page = _environment().get_template("report.html.j2").render(gathered(run))
    write_text(run.report, page)
    return run.report


def gathered(run: RunFolder) -> dict[str, Any]:
    """Everything the page shows, as plain data."""
    summary = _json(run.evaluation / "summary.json")
    spec = yaml.safe_load(run.spec.read_text(encoding="utf-8")) if run.spec.is_file() else {}
    items = list(read_items(run.evaluation / "items.jsonl")) if (run.evaluation / "items.jsonl").is_file() else []
    steps = _lines(run.steps)
    return {
        "run": run.id,
        "spec": flat(spec),
        "title": _title(spec),
        "summary": summary,
        "measures": _measures(summary),
        "loss_chart": loss_chart(steps),
        "rate_chart": rate_chart(steps),
        "trained": [s for s in steps if s["kind"] == "stepped"],
        "ledger": _ledger(run.ledger),
        "sample": _json(run.evaluation / "sample.json").get("segments", []),
        "tables": _confusions(summary),
        "best": ends(items, summary.get("metric", ""), best=True),
        "worst": ends(items, summary.get("metric", ""), best=False),
        "metric": summary.get("metric", ""),
        "data": _json(run.data),
        "notes": [note for note in _list(run.notes) if note["level"] != "verdict"],
        "capsule": _json(run.capsule),
        "capsule_rows": flat(_json(run.capsule)),
        "certificate": _json(run.certificate),
    }


def loss_chart(steps: list[dict[str, Any]]) -> str:
    """Training and held-out loss by step."""
    train = [(s["step"], s["loss"]) for s in steps if s["kind"] == "stepped"]
    held_out = [(s["step"], s["loss"]) for s in steps if s["kind"] == "validated"]
    return chart(
        [Line("training", "train", train), Line("held out", "held-out", held_out, dots=True)], x="step", y="nats per learned token"
    )


def rate_chart(steps: list[dict[str, Any]]) -> str:
    """Learning rate by step."""
    rates = [(s["step"], s["learning_rate"]) for s in steps if s["kind"] == "stepped"]
    return chart([Line("learning rate", "rate", rates)], x="step", y="learning rate", width=420)


def ends(items: list[Item], metric: str, *, best: bool) -> list[Item]:
    """The items that gained most, or lost most (and among equals, those answered worst)."""
    if not items or metric not in items[0].tuned.scores:
        return []
    ranked = sorted(items, key=lambda item: (item.gain(metric), item.tuned.scores[metric]), reverse=best)
    wanted = [item for item in ranked if (item.gain(metric) > 0 if best else item.tuned.scores[metric] < 1)]
    return wanted[:SHOWN]


def flat(content: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names and values."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        found += flat(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]
    return found


def number(value: float) -> str:
    """Enough digits to compare, no more."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}" if value else "0"


def shown(value: float, sign: str) -> str:
    """A value of a measure: one decimal for what is counted in points of a hundred, else `number`."""
    return f"{value:.1f}{sign}".strip() if sign else number(value)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "shown": shown}
    environment.globals["whisker"] = whisker
    return environment


def _measures(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The measure of the verdict first, then the others as they come."""
    measures = summary.get("measures", {})
    order = sorted(measures, key=lambda name: name != summary["metric"])
    return [{"name": name, "sign": "%" if name in PERCENT else "", **measures[name]} for name in order]


def _confusions(summary: dict[str, Any]) -> list[dict[str, Any]]:
    tables = summary.get("tables", {})
    return [{"side": side, **tables[side], "cells": _shaded(tables[side]["confusion"])} for side in ("base", "tuned") if tables.get(side)]


def _shaded(confusion: list[list[int]]) -> list[list[tuple[int, float]]]:
    """Each count with its share of its row."""
    return [[(count, count / max(1, sum(row))) for count in row] for row in confusion]


def _ledger(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    totals = {name: int(pc.sum(table[name]).as_py() or 0) for name in ("total", "learned", "masked", "cut")}
    return {"rows": table.num_rows, **totals}


def _title(spec: dict[str, Any]) -> str:
    data, model = (Path(str(spec.get(part, {}).get(key, ""))).name for part, key in (("data", "file"), ("model", "name")))
    return f"{data or 'data'} on {model or 'a model'}"


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _list(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
