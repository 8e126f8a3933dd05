"""How fast a file is checked and tokenised, in how much memory, beside `datasets.map`, and how that grows with the rows.

    python bench/data.py --mb 200 [--rival-python VENV/bin/python] [--rows 1000,10000,100000,1000000] [--keep FOLDER] [--shared ../shared]

Writes chat JSONL made of the shared instruction and conversation sets (repeated, each row varied, so that neither duplicates nor caches
help) into a temporary folder, once of the asked size and once of a quarter of it, and a model folder: GPT-2's tokenizer, ChatML. Each
measurement is a process of its own with all cores it may use; peak memory is the largest resident set of it and of its workers together.
The rival (`data_rival.py`) does less: it checks nothing, finds no duplicates, keeps no ledger. Its ids and masks are compared with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

CONTEXT = 1 << 20
RESULTS = Path(__file__).parent / "results"
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}\
{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
SETTINGS = ("chat", "chat batched", "text batched", "chat batched, threads", "text batched, threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rows", default="", help="write results/data_rows.json for files of so many rows")
    parser.add_argument("--rival-python", default="")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each contender, in turn")
    parser.add_argument("--settings", default=";".join(SETTINGS), help="of the rival")
    parser.add_argument("--keep", type=Path, help="where files are written, and found again")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[2] / "shared"))
    parser.add_argument("--smoke", action="store_true", help="one file of 1 MB, without the rival; nothing is written")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "FILE", "MODEL"), help="one measurement, as JSON (used by the bench itself)")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure[0], Path(asked.measure[1]), Path(asked.measure[2]))))
        return
    if not (asked.shared / "data").is_dir():
        sys.exit(f"skipped: no data at {asked.shared}; set LUTHIER_SHARED")
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        model = model_folder(folder / "model", asked.shared)
        if asked.smoke:
            show("check + tokenise", write(folder / "chat.jsonl", asked.shared, mb=1), model)
        elif asked.rows:
            curve([int(rows) for rows in asked.rows.split(",")], folder, model, asked.shared)
        elif asked.mb:
            sizes(asked.mb, folder, model, asked.shared, asked.rival_python, asked.settings.split(";"), repeat=asked.repeat)


def sizes(mb: int, folder: Path, model: Path, shared: Path, rival: str, settings: list[str], *, repeat: int) -> None:
    """Both file sizes by Luthier, the larger one by the rival as well, in turn."""
    print(f"{'what':<34}{'MB':>6}{'rows':>10}{'seconds':>9}{'MB/s':>8}{'cpu s':>8}{'peak MB':>9}")
    small, large = (write(folder / f"chat-{size}.jsonl", shared, mb=size) for size in (max(1, mb // 4), mb))
    runs = [show(what, small, model) for what in ("check", "check + tokenise")]
    for _ in range(repeat):
        runs += [show(what, large, model) for what in ("check", "check + tokenise")]
        for setting in settings if rival else ():
            command = [rival, str(Path(__file__).parent / "data_rival.py"), setting, str(large), str(model), "-"]
            runs.append(line(f"rival: {setting}", large, run(command)))
    told: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "runs": runs}
    if rival:
        told["rows compared"] = compared(folder, model, shared, rival)
        print(f"ids and masks of {told['rows compared']:,} rows are equal")
        best = min(median(runs, f"rival: {setting}", large) for setting in settings)
        print(f"best rival / luthier = {best / median(runs, 'luthier: check + tokenise', large):.2f} (medians of {repeat})")
    RESULTS.joinpath("data.json").write_text(json.dumps(told, indent=1) + "\n")


def median(runs: list[dict[str, Any]], what: str, file: Path) -> float:
    """Of the seconds that something took with a file."""
    return statistics.median(each["seconds"] for each in runs if each["what"] == what and each["mb"] == round(file.stat().st_size / 1e6, 1))


def curve(rows: list[int], folder: Path, model: Path, shared: Path) -> None:
    """Seconds and memory against rows in the file."""
    told = []
    for count in rows:
        file = write(folder / f"chat-{count}-rows.jsonl", shared, rows=count)
        check, both = show("check", file, model), show("check + tokenise", file, model)
        mb, peak_mb = round(file.stat().st_size / 1e6, 2), round(max(check["peak"], both["peak"]))
        told.append(
            {"rows": count, "mb": mb, "check_s": round(check["seconds"], 3), "both_s": round(both["seconds"], 3), "peak_mb": peak_mb}
        )
    RESULTS.joinpath("data_rows.json").write_text(json.dumps({"cores": len(os.sched_getaffinity(0)), "runs": told}, indent=1) + "\n")


def model_folder(folder: Path, shared: Path) -> Path:
    """A folder with GPT-2's tokenizer and ChatML, for both sides."""
    import tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    library = tokenizers.Tokenizer.from_file(str(shared / "data" / "tok_gpt2" / "tokenizer.json"))
    library.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")])
    library.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(config))
    folder.joinpath("chat_template.jinja").write_text(CHATML)
    return folder


def write(path: Path, shared: Path, *, mb: int = 0, rows: int = 0) -> Path:
    """Chat rows until the file has `mb` megabytes (10^6 bytes), or `rows` rows."""
    size = 0
    if path.exists():
        return path
    with path.open("w", encoding="utf-8") as sink:
        for number, messages in enumerate(cycle(list(conversations(shared)))):
            varied = [{**turn, "content": f"{turn['content']} ({number + place})"} for place, turn in enumerate(messages)]
            size += sink.write(json.dumps({"messages": varied}, ensure_ascii=False) + "\n")
            if (mb and size >= mb * 1_000_000) or number + 1 == rows:
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


def show(what: str, file: Path, model: Path) -> dict[str, Any]:
    """One measurement of Luthier."""
    return line(f"luthier: {what}", file, run([sys.executable, __file__, "--measure", what, str(file), str(model)]))


def run(command: list[str]) -> dict[str, Any]:
    """What a measuring process tells, and the processor seconds of it and its workers."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def line(what: str, file: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Print a measurement."""
    mb = file.stat().st_size / 1e6
    figures = f"{told['seconds']:>9.1f}{mb / told['seconds']:>8.1f}{told['cpu']:>8.1f}{told.get('peak', 0):>9.0f}"
    print(f"{what:<34}{mb:>6.0f}{told['rows']:>10,}{figures}", flush=True)
    return {"what": what, "mb": round(mb, 1), **told}


def measure(what: str, file: Path, model: Path) -> dict[str, float]:
    """Check, and perhaps tokenise, in this process (which may begin others)."""
    from luthier.core.spec import DataSpec
    from luthier.data.check import check
    from luthier.data.render import Renderer

    renderer = Renderer.from_folder(model) if "tokenise" in what else None
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        report = check(file, data=DataSpec(too_long="drop"), renderer=renderer, context=CONTEXT, cache=Path(cache))
        seconds = time.perf_counter() - began
        assert renderer is None or report.tokens is not None
    return {"rows": report.rows, "seconds": seconds, "peak": peak()}


def peak() -> float:
    """Largest resident set so far of this process and the largest of its workers for each core, in MB (Linux counts in KiB)."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child * len(os.sched_getaffinity(0))) * 1024 / 1e6


def compared(folder: Path, model: Path, shared: Path, rival: str) -> int:
    """How many rows of a smaller file have the same ids and the same mask on both sides; all of them, or the bench ends here."""
    import pyarrow as pa

    from luthier.core.spec import DataSpec
    from luthier.data.render import Renderer
    from luthier.data.select import Selected
    from luthier.data.tokenise import tokenise

    file, theirs = write(folder / "chat-2.jsonl", shared, mb=2), folder / "theirs"
    run([rival, str(Path(__file__).parent / "data_rival.py"), "chat", str(file), str(model), str(theirs)])
    ours = tokenise(
        Selected.of(file), renderer=Renderer.from_folder(model), data=DataSpec(), context=CONTEXT, cache=folder / "ours", key="compared"
    )
    rows = iter(ours)
    for part in sorted(theirs.glob("*.arrow")):
        for row in pa.ipc.open_stream(str(part)).read_all().to_pylist():
            (sequence,) = next(rows).sequences
            ids, mask = sequence.tokens.tolist(), (sequence.weights > 0).astype(int).tolist()
            if ids != row["input_ids"][: len(ids)] or mask != row["assistant_masks"][: len(ids)] or any(row["assistant_masks"][len(ids) :]):
                raise SystemExit(f"row {row} differs")  # what theirs has more is the line end after the last answer, which teaches nothing
    return len(ours)


if __name__ == "__main__":
    main()
