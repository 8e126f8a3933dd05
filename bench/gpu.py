#!/usr/bin/env python3
"""Everything that wants an accelerator, in one call of under eight minutes: speed, memory, agreement, what each part brings.

    python bench/gpu.py --out gpu.json                one H100-class GPU; ``$OUT/gpu.json`` where OUT is set
    python bench/gpu.py --smoke                       the same code at toy shapes on a CPU, in seconds
    python bench/gpu.py --shapes 0.5b,8b --contenders ours,trl --minutes 4

LoRA rank 16 on every linear, random bf16 weights at the shapes of Qwen2.5-0.5B, Qwen2.5-1.5B and Llama-3.1-8B, 64 rows a step, the learning
rate so small that weights stay what they were: every step's loss can be compared. Rows are made-up ids with the lengths of the harness's
works: ``instruct`` (27 to 615 tokens, nothing shared), ``support`` (one prompt of 217 tokens, 265 in all).

Each contender runs in a process of its own with what is left of the time; what is not installed, or fails, is a line with its reason.
Speed is true tokens (no padding, sharing not subtracted) over the seconds of the steps after the warm-up. Share of peak: LoRA's work
per true token, ``4 N + 4 V D learned / tokens`` FLOP, over the rate of a large bf16 matmul measured here; sharing can push it beyond 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).absolute()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "1.5b": {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    "toy": {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True},
}  # fmt: skip
"""Values of the models' own ``config.json``; ``toy`` is for the smoke run."""

CONTENDERS = {
    "ours": "the engine as it is in a long run: blocks compiled",
    "ours-plain": "blocks as they are written: not compiled",
    "ours-dense": "not compiled, attention as one torch SDPA call under a T x T mask instead of FlexAttention",
    "ours-eager": "not compiled, without lean modules",
    "trl": "TRL with PEFT, micro-batches of 16, padding to the longest, SDPA",
    "trl-free": "TRL, padding-free (wants flash_attn), liger where it is installed",
    "unsloth": "Unsloth's own LoRA with TRL's trainer",
}
WARM, STEPS, RANK, RATE = 2, 6, 16, 1e-12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="0.5b,1.5b,8b")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--works", default="instruct,support")
    parser.add_argument("--rows", type=int, default=64, help="rows of a step")
    parser.add_argument("--pack", type=int, default=0, help="tokens laid out at once (the engine's own number)")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu.json")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "CONTENDER"), help="one contender, as JSON (used by the bench itself)")
    asked = parser.parse_args()
    if asked.smoke:
        asked.shapes, asked.rows, asked.minutes = "toy", 8, 3.5
    if asked.one:
        print(json.dumps(one(asked, *asked.one)))
        return
    end = time.monotonic() + 60 * asked.minutes
    found: dict[str, Any] = {"machine": facts(asked.smoke), "results": []}
    for shape in asked.shapes.split(","):
        for contender in asked.contenders.split(","):
            if contender == "ours-eager" and shape == "8b":
                continue  # the ablation at two shapes says enough
            found["results"] += [{"shape": shape, "contender": contender, **line} for line in apart(asked, shape, contender, end)]
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)
    failed = [line for line in found["results"] if line["contender"].startswith("ours") and "skipped" in line]
    if asked.smoke and failed:
        sys.exit(f"ours does not run: {failed[0]['skipped']}")


def apart(asked: argparse.Namespace, shape: str, contender: str, end: float) -> list[dict[str, Any]]:
    """One contender in a process of its own; a line per work, or one that says why not."""
    wanted = {"trl": "trl", "trl-free": "trl", "unsloth": "unsloth"}.get(contender)
    if wanted and not installed(wanted):
        return [{"skipped": f"{wanted} is not installed"}]
    left = end - time.monotonic()
    if left < 10:
        return [{"skipped": "no time left"}]
    numbers = ["--rows", asked.rows, "--pack", asked.pack, "--works", asked.works, *(["--smoke"] if asked.smoke else [])]
    command = [sys.executable, HERE, "--one", shape, contender, *numbers]
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return [{"skipped": f"took longer than the {left:.0f} s left"}]
    if done.returncode:
        return [{"skipped": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}]
    lines: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return lines


def one(asked: argparse.Namespace, shape: str, contender: str) -> list[dict[str, Any]]:
    """Every work in turn on one network."""
    import torch

    device = torch.device("cpu" if asked.smoke or not torch.cuda.is_available() else "cuda")
    lines = []
    with contextlib.redirect_stdout(sys.stderr):  # some trainers talk
        peak = matmul_rate(device, 256 if asked.smoke else 8192)
        run = ours(asked, shape, contender, device) if contender.startswith("ours") else rival(asked, shape, contender, device)
        for work in asked.works.split(","):
            rows = made(work, SHAPES[shape]["vocab_size"], asked.rows * (WARM + STEPS))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds, losses = run(rows)
            counted = rows[asked.rows * WARM :]
            tokens, learned = sum(len(ids) for ids, _ in counted), sum(count for _, count in counted)
            speed = tokens / sum(seconds[WARM:])
            lines.append(
                {
                    "work": work,
                    "tokens_per_s": round(speed, 1),
                    "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6) if device.type == "cuda" else None,
                    "share_of_peak": round(speed * flop(SHAPES[shape], learned / tokens) / peak, 4),
                    "first_loss": round(losses[0], 5),
                    "mean_loss": round(sum(losses) / len(losses), 5),
                    "step_s": [round(s, 4) for s in seconds],
                }
            )
    return lines


def made(work: str, vocabulary: int, count: int) -> list[tuple[np.ndarray, int]]:
    """Rows of ids, and how many at the end of each are learned."""
    dice = np.random.Generator(np.random.PCG64(7))
    prompt = dice.integers(3, vocabulary, 217) if work == "support" else np.empty(0, np.int64)
    rows = []
    for _ in range(count):
        own = int(dice.integers(38, 60)) if work == "support" else int(np.clip(dice.lognormal(np.log(112), 0.6), 27, 615))
        learned = 22 if work == "support" else max(1, own // 2)
        rows.append((np.concatenate([prompt, dice.integers(3, vocabulary, own)]).astype(np.int32), learned))
    return rows


def network(shape: str, device: Any, attention: str) -> Any:
    """The same random bf16 weights for everybody who asks with the same torch."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPES[shape], max_position_embeddings=8192, eos_token_id=1, pad_token_id=0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)


def ours(asked: argparse.Namespace, shape: str, contender: str, device: Any) -> Any:
    """A session over our public parts."""
    import torch

    from luthier.core.example import Source
    from luthier.core.sequence import Row, Sequence
    from luthier.core.spec import TrainSpec
    from luthier.engine.loop import fit
    from luthier.engine.session import Session
    from luthier.methods import lora
    from luthier.models import sight
    from luthier.models.families import family_of
    from luthier.models.lean import make_lean
    from luthier.models.model import Model
    from luthier.objectives import sft

    net = network(shape, device, sight.NAME)
    if contender != "ours-eager":
        make_lean(net)
    if contender == "ours-dense":
        attend_densely(sight)
    family = family_of(SHAPES[shape]["model_type"])
    model = Model(shape, Path(), net.eval().requires_grad_(False), family, None, torch.bfloat16, 8192)  # type: ignore[arg-type]
    method = lora.Method(lora.Options(rank=RANK, alpha=2 * RANK))
    method.attach(model, seed=0)
    numbers = {"epochs": 1, "rows_per_step": asked.rows, "learning_rate": RATE, "schedule": "constant", "warmup": 0, "shuffle": False}
    train = TrainSpec(**numbers, tokens_per_pack=asked.pack or "auto", compile=contender == "ours" and device.type == "cuda")

    def run(rows: list[tuple[np.ndarray, int]]) -> tuple[list[float], list[float]]:
        planted = [
            Row(Source(shape, i + 1), [Sequence(ids, np.r_[np.zeros(len(ids) - n), np.ones(n)].astype(np.float32))])
            for i, (ids, n) in enumerate(rows)
        ]
        steps = list(fit(Session(model, method, sft.Objective(), rows=planted, train=train)))
        return [step.seconds for step in steps], [step.loss for step in steps]

    return run


def attend_densely(sight: Any) -> None:
    """Our attention with torch's SDPA under the rule as a matrix: what FlexAttention is measured against."""
    import torch
    from transformers import AttentionInterface

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **more: Any) -> Any:
        plan = more["sight"]
        if "dense" not in plan.masks:
            plan.masks["dense"] = plan.dense().to(query.device)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=plan.masks["dense"], scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None

    AttentionInterface.register(sight.NAME, attend)


def rival(asked: argparse.Namespace, shape: str, contender: str, device: Any) -> Any:
    """TRL's trainer over PEFT's or Unsloth's LoRA."""
    if contender == "unsloth":
        import unsloth  # noqa: F401 - it wants to be the first
    from datasets import Dataset
    from peft import LoraConfig
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from trl import SFTConfig, SFTTrainer

    free, micro = contender == "trl-free", min(16, asked.rows)
    if contender == "unsloth":
        net, lora = _unsloth(network(shape, device, "sdpa")), None
    else:
        net = network(shape, device, "flash_attention_2" if free else "sdpa")
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    marks: list[float] = []
    register_optimizer_step_post_hook(lambda *_: marks.append(_now(device)))

    def run(rows: list[tuple[np.ndarray, int]]) -> tuple[list[float], list[float]]:
        data = [{"input_ids": ids.tolist(), "labels": [-100] * (len(ids) - n) + ids[len(ids) - n :].tolist()} for ids, n in rows]
        settings = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=asked.rows // micro,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            bf16=True,
            use_cpu=device.type == "cpu",
            gradient_checkpointing=False,
            padding_free=free,
            max_length=None,
            use_liger_kernel=free and installed("liger_kernel"),
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        tokenizer = _tokenizer()
        trainer = SFTTrainer(model=net, processing_class=tokenizer, train_dataset=Dataset.from_list(data), args=settings, peft_config=lora)
        marks[:] = [_now(device)]
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return np.diff(marks).tolist(), losses

    return run


def _unsloth(net: Any) -> Any:
    """Unsloth patches what it loads itself, so the weights go by way of the disk."""
    from unsloth import FastLanguageModel

    with tempfile.TemporaryDirectory() as place:
        net.save_pretrained(place)
        _tokenizer().save_pretrained(place)
        del net
        loaded, _ = FastLanguageModel.from_pretrained(place, max_seq_length=8192, load_in_4bit=False)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return FastLanguageModel.get_peft_model(loaded, r=RANK, lora_alpha=2 * RANK, target_modules=names, use_gradient_checkpointing=False)


def _tokenizer() -> Any:
    """TRL wants one; the rows are ids already."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(HERE.parents[1] / "src" / "luthier" / "models" / "bundled" / "luthier-mini")


def _now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_rate(device: Any, size: int) -> float:
    """FLOP a second of a large bf16 product of random numbers, best of five."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(8):
        start = _now(device)
        _ = a @ b
        times.append(_now(device) - start)
    return 2.0 * size**3 / min(times[3:])


def flop(shape: dict[str, Any], learned: float) -> float:
    """LoRA's work per true token: frozen weights forward and back, the head on learned tokens."""
    width, head = shape["hidden_size"], shape["hidden_size"] // shape["num_attention_heads"]
    attention = 2 * width * width + 2 * width * head * shape["num_key_value_heads"]
    weights = shape["num_hidden_layers"] * (attention + 3 * width * shape["intermediate_size"])
    return 4.0 * weights + 4.0 * shape["vocab_size"] * width * learned


def installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def facts(smoke: bool) -> dict[str, Any]:
    import torch

    names = ("torch", "transformers", "peft", "trl", "liger-kernel", "flash-attn", "unsloth", "bitsandbytes")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    there = torch.cuda.is_available() and not smoke
    return {"device": torch.cuda.get_device_name() if there else "cpu", "versions": versions, "contenders": CONTENDERS}


def show(found: dict[str, Any]) -> None:
    print(f"{found['machine']['device']}  {found['machine']['versions']}")
    print(f"{'shape':<6}{'contender':<12}{'work':<10}{'tokens/s':>10}{'peak MB':>9}{'of peak':>9}{'first loss':>12}{'mean loss':>11}")
    for line in found["results"]:
        if "skipped" in line:
            print(f"{line['shape']:<6}{line['contender']:<12}skipped: {line['skipped']}")
            continue
        memory = f"{line['peak_mb']:,}" if line["peak_mb"] is not None else "-"
        numbers = (
            f"{line['tokens_per_s']:>10,.0f}{memory:>9}{line['share_of_peak']:>9.1%}{line['first_loss']:>12.4f}{line['mean_loss']:>11.4f}"
        )
        print(f"{line['shape']:<6}{line['contender']:<12}{line['work']:<10}{numbers}")


if __name__ == "__main__":
    main()
