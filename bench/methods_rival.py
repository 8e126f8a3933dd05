"""The rivals of `methods.py`: PEFT's tuners, and no tuner at all, in transformers' Trainer and in TRL's, on the rows, seeds and budget of
the cell beside it.

    python bench/methods_rival.py JOB        # JOB is JSON that `methods.py` writes; prints JSON

Same ids and labels (the tokenizer is not asked again but for preferences, whose texts TRL reads itself), same held-out rows, learning
rate, schedule, passes and rows a step; bf16 base, fp32 adapters and heads. Where every weight moves, fp32 weights and bf16 arithmetic.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

IGNORE = -100


class Clock(TrainerCallback):
    """Seconds of all steps together, without what lies around them."""

    def __init__(self) -> None:
        self.seconds, self.began = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self.began


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.manual_seed(job["seed"])
    clock, began = Clock(), time.perf_counter()
    found = {"banking77": classify, "e2e": write, "shakespeare": continue_with, "preferences": prefer}[job["work"]](job, clock)
    peak = found.pop("peak_mb")
    print(json.dumps({**found, "seconds": clock.seconds, "whole": time.perf_counter() - began, "peak_mb": peak}))


TUNERS: dict[str, Callable[..., Any]] = {
    "lora": partial(LoraConfig, r=16, lora_alpha=32, target_modules="all-linear"),
    "ia3": partial(IA3Config, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt": partial(PromptTuningConfig, num_virtual_tokens=20, prompt_tuning_init="SAMPLE_VOCAB"),
    "prefix": partial(PrefixTuningConfig, num_virtual_tokens=20),
}
"""PEFT's, as large as ours of the same name. A prefix of ours begins as keys and values of real tokens; PEFT has no such beginning."""


class Head(torch.nn.Linear):
    """Computes in fp32 whatever the network computes in, as ours does."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states.float())


def classifier(job: dict[str, Any], pad: int) -> Any:
    """A network that transformers puts a head on, moving what the way moves."""
    kind = torch.float32 if job["way"] == "full" else torch.bfloat16
    base = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=job["classes"], dtype=kind, pad_token_id=pad)
    base.score = Head(base.config.hidden_size, job["classes"], bias=False)
    torch.nn.init.normal_(base.score.weight, std=0.02)
    if job["way"] in TUNERS:
        return get_peft_model(base, TUNERS[job["way"]](task_type="SEQ_CLS"))
    if job["way"] == "head":
        base.requires_grad_(False)
        base.score.requires_grad_(True)
    return base


def arguments(job: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = {
        "output_dir": tempfile.mkdtemp(),
        "num_train_epochs": job["epochs"],
        "learning_rate": job["rate"],
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": job["warmup_steps"],
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "seed": job["seed"],
        "use_cpu": True,
        "bf16": job["way"] == "full",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1000,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
    }
    return given | more


def trained(job: dict[str, Any], network: Any, clock: Clock, pad: int) -> Any:
    """The network after transformers' own loop over ready ids.

    Behind PEFT's prompt the head finds the last token only where rows are padded on the left.
    """
    left = job["way"] == "prompt"

    def filled(numbers: list[int], longest: int, filling: int) -> list[int]:
        more = [filling] * (longest - len(numbers))
        return more + numbers if left else numbers + more

    def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["ids"]) for row in rows)
        ids = torch.tensor([filled(row["ids"], longest, pad) for row in rows])
        mask = torch.tensor([filled([1] * len(row["ids"]), longest, 0) for row in rows])
        whole = isinstance(rows[0]["labels"], list)
        labels = [filled(row["labels"], longest, IGNORE) if whole else row["labels"] for row in rows]
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)}

    settings = arguments(job, per_device_train_batch_size=job["rows_per_step"], remove_unused_columns=False)
    Trainer(network, TrainingArguments(**settings), train_dataset=job["rows"], data_collator=padded, callbacks=[clock]).train()
    return network.eval()


def classify(job: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Numbers of the classes it says, by the head that transformers puts behind the last token."""
    pad = AutoTokenizer.from_pretrained(job["model"]).pad_token_id or 0
    network = trained(job, classifier(job, pad), clock, pad)
    costs = cost(network)
    with torch.no_grad():
        said = [int(network(torch.tensor([row["ids"]])).logits[0].argmax()) for row in job["test"]]
    return costs | {"said": said}


def write(job: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Ids it writes after each prompt, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    pad = tokenizer.pad_token_id or 0
    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    network = trained(job, get_peft_model(base, TUNERS["lora"](task_type="CAUSAL_LM")), clock, pad)
    costs, said = cost(network), []
    for ids in job["test"]:
        given = torch.tensor([ids])
        more = {"max_new_tokens": 80, "do_sample": False, "eos_token_id": job["stop"], "pad_token_id": pad}
        said.append(network.generate(input_ids=given, attention_mask=torch.ones_like(given), **more)[0, len(ids) :].tolist())
    return costs | {"said": said}


def continue_with(job: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Nats per token of each set of held-out texts before and after."""
    network = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    before = {f"{name}_before": surprise(network, rows) for name, rows in job["test"].items()}
    network = trained(job, network, clock, AutoTokenizer.from_pretrained(job["model"]).pad_token_id or 0)
    costs = cost(network)
    return costs | before | {f"{name}_after": surprise(network, rows) for name, rows in job["test"].items()}


def surprise(network: Any, rows: list[dict[str, Any]]) -> float:
    learned = sum(label != IGNORE for row in rows for label in row["labels"][1:])
    return -sum(_likelihood(network, row) for row in rows) / learned


def prefer(job: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """TRL's DPO; how much likelier each held-out answer has become than under the base."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    more = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": job["rows_per_step"] // 2, "max_length": 1024, "beta": 0.1}
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(job["rows"]),
        peft_config=TUNERS["lora"](task_type="CAUSAL_LM"),
        args=DPOConfig(**arguments(job, **more)),
        callbacks=[clock],
    )
    trainer.train()
    network = trainer.model.eval()
    costs, gained = cost(network), []
    for pair in job["test"]:
        sides = [_gain(network, pair[side]) for side in ("chosen", "rejected")]
        gained.append(sides[0] - sides[1])
    return costs | {"gained": gained}


def _gain(network: Any, row: dict[str, Any]) -> float:
    with network.disable_adapter():
        before = _likelihood(network, row)
    return _likelihood(network, row) - before


@torch.no_grad()
def _likelihood(network: Any, row: dict[str, Any]) -> float:
    ids, labels = torch.tensor([row["ids"]]), torch.tensor(row["labels"])
    logprobs = network(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    learned = labels[1:] != IGNORE
    return float(logprobs[learned].gather(1, labels[1:][learned][:, None]).sum())


def cost(network: Any) -> dict[str, float]:
    moved = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {"moved": moved, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
