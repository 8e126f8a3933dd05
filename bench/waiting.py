"""Does training ever wait for data? A trace of real steps: when each plan was made, when it was asked for, how long the step then waited.

    python bench/waiting.py [--model luthier-mini] [--file FILE] [--steps 40] [--repeat-rows 1]

Rows come from a token table on disk (mapped, not read), plans are made in a thread while the step before computes. `--repeat-rows` writes
the file so many times over, to show that the number of rows does not matter. Written to `results/waiting.json`, step by step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini")
    parser.add_argument("--file", type=Path, default=HERE.parent / "src" / "luthier" / "data" / "samples" / "desk.jsonl")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeat-rows", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "waiting.json")
    parser.add_argument("--smoke", action="store_true", help="four steps; keeps no result")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LUTHIER_HOME"] = home
        file = Path(home) / asked.file.name
        file.write_bytes(asked.file.read_bytes() * asked.repeat_rows)
        steps = trace(file, asked.model, 4 if asked.smoke else asked.steps, Path(home) / "run")
    tell(steps[2:])  # the first plan has no step before it to be made in; the second step still warms up
    if not asked.smoke:
        asked.out.write_text(json.dumps({"model": asked.model, "rows": asked.repeat_rows, "steps": steps}, indent=1) + "\n")


def trace(file: Path, model: str, count: int, out: Path) -> list[dict[str, float]]:
    """Train, and note what each step waited for."""
    from luthier.core.errors import Interrupted
    from luthier.engine.session import Session
    from luthier.jobs.run import tune

    plans: dict[int, float] = {}
    advance, plan = Session.advance, Session._plan
    steps: list[dict[str, float]] = []

    def planning(self: Any, step: int, budget: int) -> Any:
        began = time.perf_counter()
        made = plan(self, step, budget)
        plans[step] = time.perf_counter() - began
        return made

    def advancing(self: Any) -> Any:
        before = self.ahead.waited
        done = advance(self)
        waited = self.ahead.waited - before
        steps.append({"step": done.step, "seconds": done.seconds, "waited": waited, "planned": plans[done.step - 1]})
        if done.step == count:
            raise Interrupted("enough was seen")
        return done

    Session._plan, Session.advance = planning, advancing  # type: ignore[method-assign]
    allow = {"data": {"allow_near_duplicates": True}, "train": {"max_steps": count + 1}}
    with suppress(Interrupted):
        tune(file, model=model, out=out, **allow)
    return steps


def tell(steps: list[dict[str, float]]) -> None:
    """Medians, the worst wait, and the share of time waited."""
    for name in ("seconds", "planned", "waited"):
        values = sorted(step[name] for step in steps)
        print(f"{name:<10} median {1e3 * statistics.median(values):>9.3f} ms   largest {1e3 * values[-1]:>9.3f} ms")
    waited, whole = sum(step["waited"] for step in steps), sum(step["seconds"] for step in steps)
    print(f"{len(steps)} steps waited {waited / whole:.4%} of their time for data")


if __name__ == "__main__":
    main()
