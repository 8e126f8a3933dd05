"""What the benches say about their runs: ratios to the best rival, runs that computed something else, tricks that fall together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = str(Path(__file__).parents[2] / "bench")


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches find their shared parts in their own folder."""
    monkeypatch.setattr(sys, "path", [BENCH, *sys.path])


def run(entry: str, speed: float, loss: float, peak: float = 2000.0) -> dict[str, Any]:
    return {"entry": entry, "tokens_per_s": speed, "peak_rss_mb": peak, "first_loss": loss, "tokens": 100, "learned_tokens": 50}


def test_ratios_are_to_the_fastest_rival(shared: Path) -> None:
    import versus

    runs = [run("trl", 200, 11.3), run("litgpt", 250, 11.302), run("luthier_tune", 500, 11.301, peak=1000), run("odd", 100, 11.2)]
    record = {"job": "instruct", "work": "instruct", "rows": 8, "rows_per_step": 8, "limits": [700.0, 800.0], "runs": runs}
    lines = {line.split("|")[1].strip(" `"): line for line in versus.table(record, shared).splitlines() if line.startswith("| `")}
    assert "| 2.00 |" in lines["luthier_tune"] and "| 0.50 |" in lines["luthier_tune"] and "differs" not in lines["luthier_tune"]
    assert "differs" in lines["odd"], "another first loss is another computation"


def test_full_tuning_needs_half_as_much_again(shared: Path) -> None:
    import json

    import versus

    shape = json.loads((shared / "bench" / "works" / "model.json").read_text())
    lora, full = (versus.JOBS[name].flop_per_token(shape, 0.584) for name in ("instruct", "full"))
    assert lora == pytest.approx(492e6, rel=0.01), "the number of the harness's own page"
    assert full == pytest.approx(1.5 * lora)


def test_what_rests_on_a_trick_falls_with_it() -> None:
    from _tricks import TRICKS, fallen, standing

    assert fallen("learned rows") == {"learned rows", "head chunks", "early gradient"}
    assert "lean blocks" in standing("fused blocks") and "fused blocks" in fallen("lean blocks")
    assert all(TRICKS[other] for trick in TRICKS.values() for other in trick.rests_on)


def test_a_variant_that_computes_something_else_is_told() -> None:
    from ablation import equal

    first = {"losses": [2.0, 1.9], "norms": [1.0, 1.0]}
    assert equal({"losses": [2.001, 1.899], "norms": [1.01, 0.99]}, first)
    assert not equal({"losses": [2.001, 1.85], "norms": [1.0, 1.0]}, first)
    assert not equal({"losses": [2.0, 1.9], "norms": [1.2, 1.0]}, first)


def test_a_straight_line_is_found_again() -> None:
    from curves import straight

    line = straight([(x, 1.5 + 0.25 * x) for x in (128.0, 512.0, 2048.0)])
    assert all(y == pytest.approx(1.5 + 0.25 * x) for x, y in line)
