#!/usr/bin/env python3
"""LitGPT, every weight tuned (litgpt.finetune.full), fed with ready token ids.

--micro N        rows per forward pass
--precision P    bf16-true (weights, gradients and moments in bf16), bf16-mixed (fp32 weights, bf16 arithmetic) or 32-true

LitGPT holds embedding and head as two tensors even where the model ties them, so it trains V x H weights more.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import common

asked = common.arguments(micro={"type": int, "default": 2}, precision={"default": "bf16-mixed"})

import torch  # noqa: E402
from litgpt import Config  # noqa: E402
from litgpt.args import EvalArgs, TrainArgs  # noqa: E402
from litgpt.data import DataModule, get_sft_collate_fn  # noqa: E402
from litgpt.finetune import full  # noqa: E402
from litgpt.prompts import Default  # noqa: E402
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama  # noqa: E402
from litgpt.utils import save_config  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


def convert(source: Path, target: Path) -> None:
    """Write the model folder again in LitGPT's own layout, in the number format of `source`."""
    shape = json.loads((source / "config.json").read_text())
    vocabulary = shape["vocab_size"]
    config = Config.from_name(
        "SmolLM2-135M", vocab_size=vocabulary, padded_vocab_size=vocabulary, block_size=shape["max_position_embeddings"]
    )
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(source / "model.safetensors"))
    torch.save(weights, target / "lit_model.pth")
    save_config(config, target)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (target / name).write_bytes((source / name).read_bytes())


class Ready(DataModule):
    """The rows in their order, padded per micro-batch by LitGPT's own collate function."""

    prompt_style = Default()

    def __init__(self, rows: list[dict]) -> None:
        super().__init__()
        self.rows = [
            {
                "input_ids": torch.tensor(r["input_ids"]),
                "labels": torch.tensor(r["labels"]),
                "token_counts": {"raw": len(r["input_ids"]), "raw_plus_prompt_template": len(r["input_ids"])},
            }
            for r in rows
        ]

    def connect(self, tokenizer: object = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=self.batch_size, collate_fn=get_sft_collate_fn())

    def val_dataloader(self) -> DataLoader:  # LitGPT insists on one; it runs before the clock starts
        return DataLoader(self.rows[:1], batch_size=1, collate_fn=get_sft_collate_fn())


rows = common.load(asked)
clock = common.Clock()
accumulate = asked.rows_per_step // asked.micro
plain, parts = full.chunked_cross_entropy, []


def noted(logits: torch.Tensor, targets: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """LitGPT's loss; value and number of learned tokens are noted for the step's mean."""
    value = plain(logits, targets, *args, **kwargs)
    if torch.is_grad_enabled():
        parts.append((float(value.detach()), int((targets != common.IGNORE).sum())))
        if len(parts) == accumulate:
            clock.losses.append(sum(v * n for v, n in parts) / sum(n for _, n in parts))
            parts.clear()
    return value


def nothing(*args: object, **kwargs: object) -> None:
    """In the place of what happens after the last step, or writes to disk."""


full.chunked_cross_entropy = noted
full.generate_example = full.copy_config_files = full.save_hyperparameters = full.save_prompt_style = nothing
full.L.Fabric.save = nothing

folder = Path(tempfile.mkdtemp())
(folder / "model").mkdir()
convert(Path(asked.model), folder / "model")
full.setup(
    folder / "model",
    out_dir=folder / "out",
    precision=asked.precision,
    data=Ready(rows),
    train=TrainArgs(
        global_batch_size=asked.rows_per_step,
        micro_batch_size=asked.micro,
        lr_warmup_steps=1,
        epochs=1,
        max_steps=len(rows) // asked.rows_per_step,
        log_interval=1,
        save_interval=None,
    ),
    eval=EvalArgs(interval=10**9, max_new_tokens=1, max_iters=1, initial_validation=False, final_validation=False),
    optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": asked.rate, "weight_decay": 0.0, "fused": True}},
)
clock.write(
    asked,
    rows,
    ("torch", "lightning", "litgpt"),
    {"micro": asked.micro, "accumulate": accumulate, "precision": asked.precision, "threads": torch.get_num_threads()},
)
