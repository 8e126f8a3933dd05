"""How fast a file is checked and tokenised, and how much memory that takes.

    python bench/data.py [--mb 100] [--shared ../shared] [--no-near]

Writes chat JSONL made of the shared instruction and conversation sets (repeated, each row varied, so that neither duplicates nor caches
help) into a temporary folder: once of the asked size and once of a quarter of it. Each measurement is a process of its own on one core;
peak memory is the process's largest resident set, and what it had before reading is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

CONTEXT = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[2] / "shared"))
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"), help="one measurement, as JSON (used by the bench itself)")
    parser.add_argument("--smoke", action="store_true", help="one file of 1 MB")
    asked = parser.parse_args()
    if not (asked.shared / "data").is_dir():
        sys.exit(f"skipped: no data at {asked.shared}; set LUTHIER_SHARED")
    if asked.measure:
        print(json.dumps(measure(asked.measure[0], Path(asked.measure[1]), asked.shared)))
        return
    print(f"{'what':<22}{'MB':>6}{'rows':>10}{'MB/s':>8}{'MB/s cpu':>10}{'peak MB':>9}{'before':>8}")
    with tempfile.TemporaryDirectory() as folder:
        sizes = (1,) if asked.smoke else (max(1, asked.mb // 4), asked.mb)
        files = [write(Path(folder) / f"chat-{mb}.jsonl", mb, asked.shared) for mb in sizes]
        for what in ("check without near", "check", "check + tokenise"):
            for file in files:
                show(what, file, asked.shared)


def write(path: Path, mb: int, shared: Path) -> Path:
    """Chat rows until the file has `mb` megabytes (10^6 bytes)."""
    size = 0
    with path.open("w", encoding="utf-8") as sink:
        for number, messages in enumerate(cycle(list(conversations(shared)))):
            varied = [{**turn, "content": f"{turn['content']} ({number + place})"} for place, turn in enumerate(messages)]
            size += sink.write(json.dumps({"messages": varied}, ensure_ascii=False) + "\n")
            if size >= mb * 1_000_000:
                return path
    return path


def conversations(shared: Path) -> Iterator[list[dict[str, str]]]:
    from luthier.core.example import Example
    from luthier.data.read import read

    for name in (
        "ft_llamafactory/alpaca_en_demo.json",
        "ft_gsm8k/train.jsonl",
        "ft_fastchat/dummy_conversation.json",
        "ft_gpteacher/roleplay.json",
    ):
        for item in read(shared / "data" / name):
            if isinstance(item, Example):
                yield [{"role": message.role, "content": message.content} for message in item.messages]


def show(what: str, file: Path, shared: Path) -> None:
    command = [sys.executable, __file__, "--shared", str(shared), "--measure", what, str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        sys.exit(f"{what}: {done.stderr.strip().splitlines()[-1]}")
    got = json.loads(done.stdout)
    mb = file.stat().st_size / 1e6
    speeds = f"{mb / got['seconds']:>8.1f}{mb / got['cpu']:>10.1f}"
    print(f"{what:<22}{mb:>6.0f}{got['rows']:>10,}{speeds}{got['peak']:>9.0f}{got['before']:>8.0f}", flush=True)


def measure(what: str, file: Path, shared: Path) -> dict[str, float]:
    from luthier.core.spec import DataSpec
    from luthier.data.check import check

    data, renderer = DataSpec(too_long="drop"), None
    if "tokenise" in what:
        from luthier.data.render import Renderer

        renderer = Renderer.from_folder(shared / "models" / "stories260k")
    before, began, cpu = peak(), time.perf_counter(), time.process_time()
    report = check(file, data=data, near="without near" not in what)
    if renderer is not None:
        tokenise_all(file, data, renderer)
    return {"rows": report.rows, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak": peak(), "before": before}


def tokenise_all(file: Path, data: object, renderer: object) -> None:
    from luthier.core.example import Example
    from luthier.data.read import read
    from luthier.data.tokenise import tokenise

    examples = (item for item in read(file) if isinstance(item, Example))
    with tempfile.TemporaryDirectory() as cache:
        tokenise(examples, renderer=renderer, data=data, context=CONTEXT, cache=Path(cache), key="bench")  # type: ignore[arg-type]


def peak() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes; Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
