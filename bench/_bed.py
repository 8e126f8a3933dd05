"""What our own benches measure on: a Llama of 135 M random weights, and rows made up or taken from the harness's works.

A bench that wants a peak of memory runs in a process of its own: the kernel's high-water mark never falls.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import TrainSpec
from luthier.data.render import Renderer
from luthier.engine.session import Session
from luthier.methods import full, lora
from luthier.models import load
from luthier.models.find import find
from luthier.models.machine import machine
from luthier.models.model import Model
from luthier.objectives import sft

SHARED = Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).absolute().parents[2] / "shared")

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50304,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
"""The shape of SmolLM2-135M, as in the harness's ``works/model.json``, with room for 8,192 tokens."""

SMOKE = {"vocab_size": 6144, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
SMOKE |= {"num_key_value_heads": 2}


def base(*, smoke: bool = False, dtype: str = "auto") -> Model:
    """The base, the same weights in every process."""
    renderer = Renderer.from_folder(find("luthier-mini"))  # never asked for a token here; a model has one
    return load.fresh(SHAPE | (SMOKE if smoke else {}), renderer=renderer, seed=0, dtype=dtype)  # type: ignore[arg-type]


def session(model: Model, rows: list[Row], *, rows_per_step: int = 8, rank: int | None = 16, tokens_per_pack: int = 0) -> Session:
    """A session as ``luthier tune`` would make it; `rank` None tunes every weight."""
    method = full.Method() if rank is None else lora.Method(lora.Options(rank=rank, alpha=2 * rank))
    method.attach(model, seed=0)
    train = TrainSpec(
        epochs=1,
        rows_per_step=rows_per_step,
        learning_rate=2e-4,
        schedule="constant",
        warmup=0,
        shuffle=False,
        tokens_per_pack=tokens_per_pack or "auto",
    )
    return Session(model, method, sft.Objective(), rows=rows, train=train)


def made_up(count: int, length: int, *, learned: float = 0.5, vocabulary: int = 6000, seed: int = 0) -> list[Row]:
    """Rows of random tokens with nothing in common; the last share `learned` of each is learned."""
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = np.zeros(length, np.float32)
    weights[max(1, round(length * (1 - learned))) :] = 1
    return [Row(Source("made up", i + 1), [Sequence(generator.integers(4, vocabulary, length, np.int32), weights)]) for i in range(count)]


def work(name: str, count: int, *, vocabulary: int = 50304) -> list[Row]:
    """The first rows of one of the harness's works, with its ids and labels.

    Args:
        vocabulary: ids are taken modulo this, for networks that know fewer.
    """
    folder = SHARED / "bench"
    if not folder.is_dir():
        sys.exit(f"skipped: no works at {folder}; set LUTHIER_SHARED")
    sys.path.insert(0, str(folder))
    import common
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "works" / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in ("<|im_start|>", "<|im_end|>")])
    with tempfile.TemporaryDirectory() as place:  # the harness's make_model.py writes the same file beside its weights
        tokenizer.save(f"{place}/tokenizer.json")
        given = common.load(Namespace(model=place, work=name, rows=count, rows_per_step=1, warm_steps=0))
    return [labelled(r["input_ids"], r["labels"], Source(name, i + 1), vocabulary) for i, r in enumerate(given)]


def labelled(ids: list[int], labels: list[int], source: Source, vocabulary: int = 1 << 30) -> Row:
    """Ready ids and labels as a row of ours: label -100 is weight 0, and nothing precedes the first token."""
    weights = (np.array(labels) != -100).astype(np.float32)
    weights[0] = 0
    return Row(source, [Sequence((np.array(ids) % vocabulary).astype(np.int32), weights)])


def peak_mb() -> float:
    """Largest resident set of this process so far (Linux counts in KiB), in the harness's MB of 2^20 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(file: Path, content: dict[str, Any], lines: Iterable[dict[str, Any]]) -> None:
    """`content` and the machine as JSON, a line for each measurement."""
    here = machine().to_json()
    keep = {key: here[key] for key in ("processor", "cores", "threads", "memory_bytes", "accelerator", "python", "versions")}
    head = json.dumps(content | {"machine": keep}, indent=1)[:-2]
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")  # a bench that is stopped here leaves the whole file it had
    part.write_text(head + ',\n "runs": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]}\n", encoding="utf-8")
    part.replace(file)


def append(file: Path, result: dict[str, Any]) -> None:
    """One more result in a JSON list."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    file.write_text(json.dumps([*before, result], indent=1) + "\n", encoding="utf-8")
