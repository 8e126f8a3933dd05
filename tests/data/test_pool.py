"""Large files are shared out to processes: the same report and the same table as read by one, and clean ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.example import Example
from luthier.core.spec import DataSpec
from luthier.data import blocks, pool
from luthier.data.check import check
from luthier.data.pool import Pool
from luthier.data.read import read
from luthier.data.recognise import recognise
from luthier.data.render import Renderer
from luthier.data.tokens import TokenTable
from luthier.models.catalog import BUNDLED


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.from_folder(BUNDLED / "luthier-mini")


@pytest.fixture
def file(tmp_path: Path, shared: Path) -> Path:
    """Chats with every kind of trouble, in several blocks."""
    rows = [
        {"messages": [{"role": turn.role, "content": turn.content} for turn in item.messages]}
        for item in read(shared / "data" / "ft_llamafactory" / "alpaca_en_demo.json")
        if isinstance(item, Example)
    ]
    for number, row in enumerate(rows):
        row["label"] = f"kind {number % 7}"
        row[f"extra {number % 5}"] = number
    lines = [json.dumps(row) for row in rows]
    for place, line in ((5, ""), (40, "{"), (300, ""), (301, "   "), (302, json.dumps({"messages": [{"role": "usr", "content": "x"}]}))):
        lines.insert(place, line)
    lines += [lines[0], lines[50].replace("the", "this"), json.dumps({"messages": [], "mesages": 1})]
    lines[200] = lines[200].replace('"content": "', '"content": "Write to anna.smith@example.com or +44 20 7946 0958: ', 1)
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")  # the last line has no end
    return path


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST_BYTES", 1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 70_000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_blocks_are_whole_lines_with_their_numbers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 10_000)
    parts, content = list(blocks.blocks(file)), file.read_bytes()
    assert len(parts) > 10
    assert b"".join(content[part.start : part.stop] for part in parts) == content
    assert all(content[: part.start].count(b"\n") + 1 == part.row for part in parts)
    assert all(content[part.start - 1 : part.start] == b"\n" for part in parts[1:])


@pytest.mark.parametrize("near_rows", [200_000, 450])
def test_a_report_by_two_processes_is_that_of_one(
    near_rows: int, file: Path, renderer: Renderer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.data.duplicates.Signatures.__init__.__defaults__", (near_rows,))
    asked = {"data": DataSpec(too_long="drop", group="label"), "renderer": renderer, "context": 200}
    alone = check(file, **asked)
    request.getfixturevalue("shared_out")
    assert pool.workers(file, recognise(file)) == 2
    heard: list[int] = []
    together = check(file, **asked, on_progress=lambda done, _: heard.append(done))
    assert together.to_json() == alone.to_json()
    assert heard[-1] == file.stat().st_size
    assert {
        "exact_duplicate",
        "invalid_json",
        "wrong_role",
        "blank_line",
        "unknown_field",
        "personal_data",
        "too_long",
    } <= alone.counts.keys()


def test_a_table_by_two_processes_is_that_of_one(shared: Path, renderer: Renderer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = shared / "data" / "ft_gsm8k" / "train.jsonl"
    asked = {"renderer": renderer, "data": DataSpec(too_long="drop"), "context": 300}
    alone = check(path, cache=tmp_path / "alone", **asked).tokens
    request.getfixturevalue("shared_out")
    together = check(path, cache=tmp_path / "together", **asked).tokens
    assert together.fingerprint == alone.fingerprint
    assert len(list((tmp_path / "together" / together.name).glob("tokens-*.arrow"))) > 3
    assert together.ledger.to_pylist() == alone.ledger.to_pylist()
    assert together.totals.dropped > 0
    _same(together, alone)
    some = range(3, 2000, 3)
    assert together.only(some).ledger["row"].to_pylist() == list(some)
    _same(together.only(some), alone.only(some))


def _same(left: TokenTable, right: TokenTable) -> None:
    assert len(left) == len(right) > 100
    for ours, theirs in zip(left, right, strict=True):
        assert ours.source == theirs.source
        assert all(
            np.array_equal(a.tokens, b.tokens) and np.array_equal(a.weights, b.weights)
            for a, b in zip(ours.sequences, theirs.sequences, strict=True)
        )


def test_what_all_processes_refuse_is_in_one_report(
    shared: Path, renderer: Renderer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    asked = {"data": DataSpec(), "renderer": renderer, "context": 150, "cache": tmp_path}
    alone = check(shared / "data" / "ft_gsm8k" / "train.jsonl", **asked)
    request.getfixturevalue("shared_out")
    together = check(shared / "data" / "ft_gsm8k" / "train.jsonl", **asked)
    assert together.to_json() == alone.to_json()
    assert together.counts["too_long"] == together.errors > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [0, 2])
def test_a_check_that_is_killed_leaves_no_table(processes: int, shared: Path, tmp_path: Path) -> None:
    """Nor anything but a hidden folder, which the next one to make this table writes over."""
    program = (
        "import os, sys; from pathlib import Path; from luthier.core.spec import DataSpec; from luthier.data import blocks, check, pool; "
        "from luthier.data.render import Renderer; from luthier.models.catalog import BUNDLED; "
        f"pool.LEAST_BYTES = 1 if {processes} else 1 << 40; blocks.BLOCK_BYTES = 70_000; os.sched_getaffinity = lambda _: {{0, 1}}; "
        "check.complete = lambda *_: os.kill(os.getpid(), 9); "
        "check.check(Path(sys.argv[1]), data=DataSpec(), renderer=Renderer.from_folder(BUNDLED / 'luthier-mini'), context=4096, "
        "cache=Path(sys.argv[2]))"
    )
    path, cache = shared / "data" / "ft_gsm8k" / "train.jsonl", tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", program, str(path), str(cache)], env=os.environ | {"PYTHONPATH": _root()}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [folder.name[0] for folder in cache.iterdir()] == ["."]


def test_a_worker_that_dies_is_an_error_with_a_sentence(file: Path) -> None:
    with Pool(2, {"file": str(file), "data": {}, "recognition": {}, "press": None, "near": False}) as pool:
        os.kill(pool._members[1].pid, signal.SIGKILL)
        pool._members[1].wait()
        with pytest.raises(DataError, match="ended by signal 9 before it was done") as told:
            pool._heard(pool._members[1])
        assert told.value.code == "reader_died"
        pids = [worker.pid for worker in pool._members]
    assert all(not _lives(pid) for pid in pids)


def test_a_fault_in_a_worker_comes_with_its_trace(file: Path) -> None:
    with Pool(1, {"file": "", "data": {"nonsense": 1}}) as pool, pytest.raises(RuntimeError, match="nonsense"):
        list(pool.answers([{"block": [0, 1, 1]}]))


def test_what_a_worker_raises_arrives_as_it_was(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    known = {"format": "openai_chat", "confidence": 1.0, "reason": ""}
    task = {"file": str(gone), "data": {}, "recognition": known, "press": None, "near": False}
    with Pool(1, task) as pool, pytest.raises(LookupError, match="There is no such file"):
        list(pool.answers([{"block": [0, 1, 1], "near": 0, "into": None}]))


def test_workers_end_when_their_parent_is_killed() -> None:
    program = (
        "import sys, time; from luthier.data.pool import Pool; c = Pool(2, {}); "
        "print(*[w.pid for w in c._members], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": _root()}
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    for pid in pids:
        for _ in range(200):
            if not _lives(pid):
                break
            os.sched_yield()
            import time

            time.sleep(0.05)
        assert not _lives(pid)


def _root() -> str:
    return str(Path(pool.__file__).parents[2])


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False
