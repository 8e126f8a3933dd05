#!/usr/bin/env python3
"""LLaMA-Factory, every weight tuned, fed with a ready tokenised data set (its `tokenized_path`).

--micro N       rows per forward pass
--autocast 0/1  bf16 autocast over fp32 weights, or all fp32; bf16 weights (`pure_bf16`) are refused without a GPU
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import common

asked = common.arguments(micro={"type": int, "default": 2}, autocast={"type": int, "default": 1})

import torch  # noqa: E402
from datasets import Dataset, DatasetDict  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_pre_hook  # noqa: E402

rows = common.load(asked)
folder = Path(tempfile.mkdtemp())
ready = [{**r, "attention_mask": [1] * len(r["input_ids"]), **dict.fromkeys(("images", "videos", "audios"))} for r in rows]
DatasetDict(train=Dataset.from_list(ready)).save_to_disk(str(folder / "data"))

held: set[str] = set()


def look(optimiser: torch.optim.Optimizer, *_: object) -> None:
    """Note what the weights that train are held in."""
    held.update(str(p.dtype)[6:] for group in optimiser.param_groups for p in group["params"])


first_look = register_optimizer_step_pre_hook(look)
clock = common.Clock()
run_exp(
    {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": asked.model,
        "template": "chatml",
        "dataset": "unused",
        "tokenized_path": str(folder / "data"),
        "cutoff_len": 2048,
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": asked.micro,
        "gradient_accumulation_steps": asked.rows_per_step // asked.micro,
        "num_train_epochs": 1,
        "learning_rate": asked.rate,
        "lr_scheduler_type": "constant",
        "disable_shuffling": True,
        "bf16": bool(asked.autocast),
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    },
    callbacks=[clock.callback()],
)
settings = {
    "micro": asked.micro,
    "accumulate": asked.rows_per_step // asked.micro,
    "autocast": bool(asked.autocast),
    "weights": ", ".join(sorted(held)),
    "threads": torch.get_num_threads(),
}
clock.write(asked, rows, ("torch", "transformers", "llamafactory"), settings)
