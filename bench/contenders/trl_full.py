#!/usr/bin/env python3
"""TRL SFTTrainer, every weight tuned.

--micro N       rows per forward pass; gradients are summed up to --rows-per-step
--dtype NAME    what weights, gradients and moments are held in: float32 or bfloat16
--autocast 0/1  compute in bf16 under autocast
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import common

asked = common.arguments(micro={"type": int, "default": 2}, dtype={"default": "float32"}, autocast={"type": int, "default": 1})

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

rows = common.load(asked)
clock = common.Clock()
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype)),
    processing_class=AutoTokenizer.from_pretrained(asked.model),
    train_dataset=Dataset.from_list(rows),
    args=SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=asked.micro,
        gradient_accumulation_steps=asked.rows_per_step // asked.micro,
        num_train_epochs=1,
        learning_rate=asked.rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        bf16=bool(asked.autocast),
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=1024,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    ),
    callbacks=[clock.callback()],
)
trainer.train()
settings = {
    "micro": asked.micro,
    "accumulate": asked.rows_per_step // asked.micro,
    "autocast": bool(asked.autocast),
    "weights": str(next(trainer.model.parameters()).dtype)[6:],
    "optimiser": str(trainer.args.optim),
    "threads": torch.get_num_threads(),
}
clock.write(asked, rows, ("torch", "transformers", "trl"), settings)
