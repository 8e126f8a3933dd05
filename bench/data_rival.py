"""The rival of `data.py`: chat JSONL to token ids and loss mask by `datasets.map` and a transformers tokenizer.

    python bench/data_rival.py SETTING FILE MODEL OUT      # one setting, in an empty cache; prints JSON, writes OUT as an Arrow dataset

All settings give the same ids and the same mask (the answers' tokens, the end-of-turn token included, as the template's generation tag
says); they differ in how they come to it:

* ``chat``: one row a call, `apply_chat_template(..., return_assistant_tokens_mask=True)`: what TRL does for such a template.
* ``chat batched``: the same for 1,000 rows a call.
* ``text batched``: the template writes text and the places of the answers, one batch encoding with offsets, the mask from the offsets.

``, threads`` at the end: one process whose encoder has both cores, instead of two processes with one core each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

PROCESSES = 2


def main() -> None:
    setting, file, model, out = sys.argv[1:5]
    kind, _, threads = setting.partition(", ")
    os.environ |= {"TOKENIZERS_PARALLELISM": "true" if threads else "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        rows = load_dataset("json", data_files=file, split="train", cache_dir=cache)
        loaded = time.perf_counter()
        done = rows.map(
            WAYS[kind],
            batched=kind.endswith("batched"),
            num_proc=None if threads else PROCESSES,
            remove_columns=rows.column_names,
            fn_kwargs={"tokenizer": tokenizer},
        )
        ended = time.perf_counter()
        if out != "-":
            done.save_to_disk(out)
        told = {"setting": setting, "rows": len(done), "seconds": ended - began, "load_s": loaded - began, "map_s": ended - loaded}
    print(json.dumps(told))


def chat(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """One row, or a batch of them, by transformers' own way."""
    done = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
    return {"input_ids": done["input_ids"], "assistant_masks": done["assistant_masks"]}


def text(rows: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A batch: text first, then one batch encoding; the mask from the offsets of the answers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, places = render_jinja_template(
        conversations=rows["messages"],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
    masks = []
    for number, spans in enumerate(places):
        mask = [0] * len(encoded["input_ids"][number])
        for start, end in spans:
            first, last = encoded.char_to_token(number, start), encoded.char_to_token(number, end - 1)
            mask[first : last + 1] = [1] * (last + 1 - first)
        masks.append(mask)
    return {"input_ids": encoded["input_ids"], "assistant_masks": masks}


WAYS = {"chat": chat, "chat batched": chat, "text batched": text}


if __name__ == "__main__":
    main()
