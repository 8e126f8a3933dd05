#!/usr/bin/env python3
"""Luthier as a contender of the rivals' benchmark (``shared/bench``): the same rows, the same clock, our public parts.

python bench/versus.py --shared ../shared --work support        compares it with the others
BENCH=../shared/bench python bench/contender.py --work support --model MODEL --rows 16 --out result.json

--method NAME   lora (rank --rank), or full: fp32 masters and moments, bf16 weights and arithmetic
--optimiser     of the Spec: adamw, adamw8bit, layerwise
--pack N        tokens laid out at once (default: the engine's own)
--objective     sft; or dpo for the work `pairs`, --beta as TRL's. What the base thinks of the counted rows is found before the first step,
                and its seconds are added to the clock
"""

import os
import sys
from pathlib import Path

# The harness calls a contender from a folder beside its own files; called by hand, BENCH names the folder of the harness.
sys.path.insert(0, os.environ.get("BENCH") or str(Path(__file__).absolute().parents[1]))

import common

asked = common.arguments(
    method={"choices": ("lora", "full"), "default": "lora"},
    objective={"choices": ("sft", "dpo"), "default": "sft"},
    beta={"type": float, "default": 0.1},
    pack={"type": int, "default": 0},
    optimiser={"default": "adamw"},
)

import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from luthier.core.example import Source  # noqa: E402
from luthier.core.sequence import Row, Sequence  # noqa: E402
from luthier.core.spec import TrainSpec  # noqa: E402
from luthier.engine.arena import keep_memory  # noqa: E402
from luthier.engine.beside import Beside, observed  # noqa: E402
from luthier.engine.loop import fit  # noqa: E402
from luthier.engine.session import Session  # noqa: E402
from luthier.methods import full, lora  # noqa: E402
from luthier.models import load  # noqa: E402
from luthier.objectives import dpo, sft  # noqa: E402


def row(number: int, given: dict) -> Row:
    """Ready ids and labels as a row of ours: label -100 is weight 0, and nothing precedes the first token."""
    sides = {part: given[part] for part in ("chosen", "rejected")} if "chosen" in given else {"": given}
    sequences = []
    for part, side in sides.items():
        weights = (np.array(side["labels"]) != common.IGNORE).astype(np.float32)
        weights[0] = 0
        sequences.append(Sequence(np.array(side["input_ids"], np.int32), weights, part))
    return Row(Source(asked.work, number + 1), sequences)


def referenced(model, rows: list[Row]) -> tuple[Beside, float]:
    """Rows with what the base thinks of them, and the seconds it took for the counted ones."""
    warm = asked.rows_per_step * asked.warm_steps
    before = observed(model, rows, range(warm))["reference"]
    start = time.perf_counter()
    counted = observed(model, rows, range(warm, len(rows)))["reference"]
    return Beside(rows, {"reference": before + counted}), time.perf_counter() - start  # each is 0 where the other is not


keep_memory()
rows = common.load(asked)
clock = common.Clock()
model = load.load(str(Path(asked.model).absolute()))
method = full.Method() if asked.method == "full" else lora.Method(lora.Options(rank=asked.rank, alpha=2 * asked.rank))
method.attach(model, seed=0)
train = TrainSpec(
    epochs=1,
    rows_per_step=asked.rows_per_step,
    learning_rate=asked.rate,
    schedule="constant",
    warmup=0,
    shuffle=False,
    optimiser=asked.optimiser,
    tokens_per_pack=asked.pack or "auto",
)
learned = [row(i, r) for i, r in enumerate(rows)]
objective, spent = sft.Objective(), 0.0
if asked.objective == "dpo":
    objective = dpo.Objective(dpo.Options(beta=asked.beta))
    learned, spent = referenced(model, learned)
session = Session(model, method, objective, rows=learned, train=train)
for step in fit(session):
    clock.mark()  # the harness listens to torch's optimisers, and ours is none
    clock.losses.append(step.loss)
clock.marks[asked.warm_steps - 1] = (clock.marks[asked.warm_steps - 1][0] - spent, *clock.marks[asked.warm_steps - 1][1:])
settings = {
    "method": asked.method,
    "objective": asked.objective,
    "optimiser": asked.optimiser,
    "tokens_per_pack": session.budget,
    "dtype": str(model.dtype)[6:],
    "threads": torch.get_num_threads(),
}
clock.write(asked, rows, ("torch", "transformers", "luthier"), settings)
