"""Embeddings on held-out rows: is the text that belongs to another the nearest of all that belong to any?

* **found first** (recall at 1): the share of rows whose own second text is nearer than those of all other held-out rows.
* **reciprocal rank**: the mean of one over its place (MRR; Voorhees, TREC-8, 1999), in points.

Nearness is the cosine of mean states. Base and tuned see the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.core.example import Example
from luthier.core.files import write_json
from luthier.core.sequence import Row, Rows
from luthier.core.spec import EvaluateSpec
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.engine.forest import Forest
from luthier.engine.pack import packs
from luthier.evaluation.evaluate import Evaluation, Progress
from luthier.evaluation.items import Answer, Item, write_items
from luthier.evaluation.labels import labels_of
from luthier.evaluation.verdict import Verdict, verdict
from luthier.inference.sides import SIDES, Method, Side, Sides
from luthier.models.model import Model

NAME = "found_first"

MOST = 2000
"""Rows compared with each other; more make every search harder, and the number means less."""


def evaluate(
    model: Model,
    method: Method | None,
    examples: list[Example],
    rows: Rows,
    *,
    spec: EvaluateSpec,
    folder: Path | None = None,
    notes: Iterable[str] = (),
    on_progress: Progress | None = None,
) -> Evaluation:
    """Compare base and tuned; see `evaluation.evaluate.evaluate`. `rows` are as the objective reads them."""
    start, sides = time.perf_counter(), Sides(model, method)
    several = [rows[i] for i in range(min(len(rows), MOST))]
    ranks: dict[Side, NDArray[np.int64]] = {}
    for number, side in enumerate(SIDES, 1):
        with sides.side(side) as answering:
            ranks[side] = places(*embedded(answering, several))
        if on_progress:
            on_progress(number * len(several), 2 * len(several))
    measures = _measures(ranks, spec.resamples)
    items = _items(examples, several, ranks, spec.rows)
    found = Evaluation(measures[NAME], NAME, "the rows say which texts belong together", measures, items, labels_of([]))
    found.notes = [*notes, f"Each of {len(several)} texts is looked for among {len(several)}."]
    found.rows, found.seconds = len(several), time.perf_counter() - start
    if folder is not None:
        write_items(items, folder / "evaluation" / "items.jsonl")
        write_json(folder / "evaluation" / "summary.json", found.to_json())  # last: its presence says that all is there
    return found


@torch.no_grad()
def embedded(model: Model, rows: list[Row]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean states of length 1 of the first and of the second text of every row, ``[R, D]`` each."""
    model.network.eval()
    found = np.zeros((2, len(rows), model.width), np.float32)
    for pack in packs(rows, TOKENS_PER_PACK):
        forest = Forest(model, pack)
        for place, part in enumerate(("anchor", "positive")):
            means = torch.nn.functional.normalize(forest.total(forest.states_ND.float(), part), dim=-1)
            found[place, forest.rows.numpy()] = means.cpu().numpy()
    return found[0], found[1]


def places(first_RD: NDArray[np.float32], second_RD: NDArray[np.float32]) -> NDArray[np.int64]:
    """At which place, from 1, each row's own second text comes; of equally near ones it comes last."""
    near_RR = first_RD @ second_RD.T
    found: NDArray[np.int64] = (near_RR >= np.diag(near_RR)[:, None]).sum(1)
    return found


def _measures(ranks: dict[Side, NDArray[np.int64]], resamples: int) -> dict[str, Verdict]:
    first = {side: (ranks[side] == 1).astype(float) for side in SIDES}
    back = {side: 1 / ranks[side] for side in SIDES}
    words: dict[str, Any] = {"scale": 100.0, "resamples": resamples}
    return {
        NAME: verdict(first["base"], first["tuned"], metric="texts found first", unit="points of texts found first", **words),
        "reciprocal_rank": verdict(back["base"], back["tuned"], metric="reciprocal rank", unit="points of reciprocal rank", **words),
    }


def _items(examples: list[Example], rows: list[Row], ranks: dict[Side, NDArray[np.int64]], most: int) -> list[Item]:
    by_source = {(e.source.file, e.source.row): e for e in examples}
    shown = range(0, len(rows), max(1, -(-len(rows) // most))) if most else range(0)
    items = []
    for place in shown:
        example = by_source[rows[place].source.file, rows[place].source.row]
        said = (example.chosen or example.messages)[-1].content
        base, tuned = (Answer(f"found at place {ranks[side][place]}", 0, True, {NAME: float(ranks[side][place] == 1)}) for side in SIDES)
        asked = [{"role": m.role, "content": m.content} for m in example.messages if m.role != "assistant"]
        items.append(Item(example.source.file, example.source.row, asked, said, base, tuned))
    return items
