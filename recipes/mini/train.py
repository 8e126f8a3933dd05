"""Train the bundled base `luthier-mini` with Luthier's own engine.

    python recipes/mini/train.py WORK --shared SHARED --minutes 75 --threads 1

Needs WORK/tokens from `prepare.py`. Two phases: plain text from random weights, then short instructions (`instruct.py`). The time given is
kept by planning the number of steps from a measured speed. Run again after an interruption it goes on from the last checkpoint.

    WORK/75m/plan.json   WORK/75m/pretrain/   WORK/75m/instruct/   WORK/75m/model/ (weights, tokenizer, template, card)
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bits_per_byte import bits_per_byte
from card import write_card
from instruct import examples
from plan import Plan, decided
from prepare import held_out
from rows import TokenRows, subset

from luthier.core.events import Event, Saved, Stepped, Validated
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.data.render import Renderer
from luthier.engine.session import Session
from luthier.engine.watch import Watch
from luthier.methods import full
from luthier.models import load
from luthier.models.model import Model
from luthier.objectives import pretrain, sft

BUNDLED = Path(__file__).parent.parent.parent / "src/luthier/models/bundled/luthier-mini"
PRETRAIN = TrainSpec(
    epochs=1, rows_per_step=12, learning_rate=2e-3, schedule="linear", warmup=0.03, final_rate=0.0, weight_decay=0.1, beta2=0.95,
    patience=0, tokens_per_pack=4096, save_every=1, validate_every=1, seed=1,
)  # fmt: skip
"""About 5,900 tokens a step. A rate of 2e-3 suits a width of 256; falling in a line to zero beats a cosine to a tenth when data is
seen once (arXiv 2502.15938)."""

INSTRUCT = PRETRAIN.model_copy(update={"epochs": 3, "rows_per_step": 24, "learning_rate": 6e-4, "seed": 2})
TEXT_WEIGHT = 0.1
"""Weight of the plain text mixed into the second phase, one row in ten, lest the first be forgotten: answers are short, texts long."""

LOOKS, SAVES = 12, 24
"""Held-out looks and checkpoints in a phase: a checkpoint every three minutes in 75."""


class Recipe:
    """The two phases over one work folder."""

    def __init__(self, work: Path, *, minutes: float, dtype: load.DType) -> None:
        self.tokens, self.folder, self.dtype = work / "tokens", work / f"{minutes:g}m", dtype
        self.renderer = Renderer.from_folder(BUNDLED)
        self.text = TokenRows(self.tokens, "tokens", shortest=32)
        self.talk = self._talk()
        self.plan: Plan = decided(
            self.folder / "plan.json",
            minutes=minutes,
            pretrain=lambda: self.session(self.fresh(), PRETRAIN),
            instruct=lambda: self.session(self.fresh(), INSTRUCT),
        )

    def _talk(self) -> list[Row]:
        rows = [Row(example.source, self.renderer.render(example)) for example in examples()]
        return rows + subset(self.text, count=len(rows) // 10, weight=TEXT_WEIGHT)

    def fresh(self) -> Model:
        """Random weights, always the same."""
        config = json.loads((BUNDLED / "config.json").read_text())
        return load.fresh(config, renderer=self.renderer, seed=0, dtype=self.dtype, name="luthier-mini")

    def session(self, model: Model, train: TrainSpec, *, steps: int = 0) -> Session:
        """A phase: `steps` shortens it to the plan."""
        method = full.Method()
        method.attach(model)
        planned = train.model_copy(update={"max_steps": steps}) if steps else train
        first = train is PRETRAIN
        objective = pretrain.Objective() if first else sft.Objective()
        return Session(
            model,
            method,
            objective,
            rows=self.text if first else self.talk,
            valid=TokenRows(self.tokens, "heldout", limit=24),
            train=planned,
        )

    def run(self) -> Model:
        """Both phases, or what is left of them."""
        model = self.fresh()
        for name, train, steps in (("pretrain", PRETRAIN, self.plan.pretrain_steps), ("instruct", INSTRUCT, self.plan.instruct_steps)):
            session = self.session(model, train, steps=steps)
            watch = Watch(session, self.folder / name, save_every=max(10, steps // SAVES), validate_every=0)
            tell_all(watch, name=name, every=max(10, steps // LOOKS))
        model.network.requires_grad_(False).eval()
        return model


def tell_all(watch: Watch, *, name: str, every: int) -> None:
    """Run a phase to its end, in words. An interruption saves the present step first."""
    session, began = watch.session, time.perf_counter()
    if note := watch.resume():
        print(f"{name}: {note.text}", flush=True)
    try:
        for event in watch.run():
            tell(event, name=name, began=began)
            if isinstance(event, Stepped) and event.step % every == 0 and event.step < event.of:
                print(f"{name} step {event.step}: held-out loss {session.validate():.4f} nats per token", flush=True)
    except KeyboardInterrupt:
        print(
            f"{name}: stopped after step {session.step}, saved in {watch.save().folder}. The same command goes on from there.", flush=True
        )
        sys.exit(130)


def tell(event: Event, *, name: str, began: float) -> None:
    """One line for every twentieth step and every checkpoint."""
    match event:
        case Stepped(step=step, of=of) if step % 20 == 0 or step == of:
            pace = event.tokens / event.seconds
            print(
                f"{name} step {step}/{of}  loss {event.loss:.3f}  norm {event.gradient_norm:.2f}  rate {event.learning_rate:.2e}"
                f"  {pace:,.0f} tok/s  {(time.perf_counter() - began) / 60:.1f} min",
                flush=True,
            )
        case Saved(step=step):
            print(f"{name} step {step}: checkpoint", flush=True)
        case Validated(step=step, loss=loss):
            print(f"{name} step {step}: held-out {loss:.4f} nats per token, {loss / math.log(2):.3f} bits", flush=True)


def install(folder: Path) -> None:
    """Copy weights and card into the package; tokenizer, template and config are there already."""
    for name in ("model.safetensors", "README.md"):
        shutil.copyfile(folder / name, BUNDLED / name)
    print(f"installed in {BUNDLED}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, train, save, describe."""
    parser = argparse.ArgumentParser(description="Train luthier-mini.")
    parser.add_argument("work", type=Path, help="work folder with tokens/ from prepare.py")
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds corpus/ (for the held-out figure)")
    parser.add_argument("--minutes", type=float, default=75.0, help="wall time to use")
    parser.add_argument("--quick", action="store_true", help="a few minutes' version, the same as --minutes 4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--install", action="store_true", help="copy weights and card into the package at the end")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    recipe = Recipe(asked.work, minutes=4.0 if asked.quick else asked.minutes, dtype=asked.dtype)
    print(recipe.plan, flush=True)
    model = recipe.run()
    load.save(model, recipe.folder / "model")
    figure = bits_per_byte(model, [d.text for d in held_out(asked.shared)])
    print(f"{figure:.4f} bits per byte on the held-out documents", flush=True)
    write_card(model, recipe.folder, plan=recipe.plan, facts=json.loads((recipe.tokens / "facts.json").read_text()), bits=figure)
    if asked.install:
        install(recipe.folder / "model")


if __name__ == "__main__":
    main()
