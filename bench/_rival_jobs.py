"""The rivals of ``methods.py``: the same rows as ready ids, run by ``methods_rival.py`` in the interpreter that has PEFT and TRL."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from luthier.data.read import read
from luthier.jobs.rates import rates
from luthier.models import load
from luthier.models.find import find

HERE = Path(__file__).absolute().parent
BASE = "luthier-mini"


def run(
    interpreter: str,
    place: Path,
    work: str,
    *,
    way: str,
    seed: int,
    epochs: int,
    rows_per_step: int,
    base: str = BASE,
    rate: float = 0.0,
    share: float = 1.0,
    **job: Any,
) -> Any:
    """What the rival found; its schedule is ours.

    Args:
        way: ours of the same name. rate: 0 is the one ours derives. share: of that, as the objective takes it.
    """
    steps = math.ceil(len(job["rows"]) / rows_per_step) * epochs
    said = {
        "work": work,
        "way": way,
        "model": str(find(base)),
        "seed": seed,
        "epochs": epochs,
        "rows_per_step": rows_per_step,
        "rate": rate or rates()[way].at(load.load(base).num_parameters, headed=work == "banking77") * share,
        "warmup_steps": math.ceil(0.05 * steps),
    }
    file = place / "job.json"
    file.write_text(json.dumps(said | job), encoding="utf-8")
    done = subprocess.run([interpreter, str(HERE / "methods_rival.py"), str(file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1]) | {"steps": steps}


def labelled(file: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Questions as ids, and the number of their label."""
    renderer = load.load(BASE).renderer
    content = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    asked = [renderer.prompt_of(example) for example in read(file)]
    return [{"ids": ids, "labels": labels.index(row["completion"])} for ids, row in zip(asked, content, strict=True)]


def read_whole(file: Path, base: str = BASE) -> list[dict[str, Any]]:
    """Whole rows as ids, with labels where they are learned: the answer, or plain text from end to end."""
    renderer = load.load(base).renderer
    learn = "last_answer" if base == BASE else "everything"
    return [_ids(renderer.render(example, learn=learn)[0]) for example in read(file)]


def compared(file: Path) -> list[dict[str, Any]]:
    """Pairs as ids, and as the texts TRL reads; those that do not fit the context are left out, as ours are."""
    model = load.load(BASE)
    found = []
    for example in read(file):
        sides = {sequence.part: _ids(sequence) for sequence in model.renderer.render(example)}
        if max(len(side["ids"]) for side in sides.values()) <= model.context:
            found.append(sides | {"texts": _texts(sides, model.renderer)})
    return found


def _texts(sides: dict[str, dict[str, Any]], renderer: Any) -> dict[str, str]:
    texts = {}
    for side, row in sides.items():
        start = next(i for i, label in enumerate(row["labels"]) if label >= 0)
        texts |= {"prompt": renderer.decode(row["ids"][:start]), side: renderer.decode(row["ids"][start:-1])}  # TRL adds the end mark
    return texts


def _ids(sequence: Any) -> dict[str, Any]:
    ids = sequence.tokens.tolist()
    return {"ids": ids, "labels": np.where(sequence.weights > 0, sequence.tokens, -100).tolist()}


def words(said: Iterable[list[int]]) -> list[str]:
    """Texts of ids without their end."""
    renderer = load.load(BASE).renderer
    return [renderer.decode([token for token in ids if token not in renderer.end_tokens]).strip() for ids in said]


def stops() -> list[int]:
    return sorted(load.load(BASE).renderer.end_tokens)
