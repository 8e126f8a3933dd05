"""Every bench still runs: ``python bench/FILE.py --smoke`` does all its parts once at the smallest size, in seconds, and times nothing.

A bench that lacks something here (a rival, shared data, an accelerator) ends with ``sys.exit("skipped: REASON")``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
NOT_ALONE = {"contender.py": "versus.py runs it", "data_rival.py": "data.py runs it, with the rival's own interpreter"}
NOT_ALONE |= {"methods_rival.py": "methods.py runs it, with the rival's own interpreter"}
"""Files that another one runs."""

FILES = sorted(file.name for file in BENCH.glob("[!_]*.py") if file.name not in NOT_ALONE)


@pytest.mark.parametrize("name", FILES)
def test_a_bench_still_runs(name: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LUTHIER_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, str(BENCH / name), "--smoke"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode and last.startswith("skipped: "):
        pytest.skip(last.removeprefix("skipped: "))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip(), "a bench prints what it found"


def test_the_page_of_files_names_every_bench() -> None:
    page = (BENCH / "README.md").read_text(encoding="utf-8")
    assert not [file.name for file in BENCH.glob("[!_]*.py") if f"`{file.name}`" not in page]
