"""Model folders for tests: a published chat template, with the GPT-2 tokenizer and the special tokens that template writes."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

CHATML = ["<|im_start|>", "<|im_end|>"]
TEMPLATES: dict[str, tuple[list[str], str, str]] = {
    "HuggingFaceTB-SmolLM3-3B": (CHATML, "", "<|im_end|>"),
    "Qwen-Qwen2.5-7B-Instruct": (CHATML, "", "<|im_end|>"),
    "Qwen-Qwen3-0.6B": (CHATML, "", "<|im_end|>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (
        ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"],
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "google-gemma-2-2b-it": (["<bos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<|endoftext|>"),
    "meta-llama-Llama-3.1-8B-Instruct": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "meta-llama-Llama-3.2-3B-Instruct": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "microsoft-Phi-3.5-mini-instruct": (["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], "", "<|endoftext|>"),
    "mistralai-Mistral-Nemo-Instruct-2407": (["<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>"),
}
"""Template to its special tokens, begin-of-text token and the end token that the model's files name."""


def write_folder(shared: Path, folder: Path, *, template: str, tokens: list[str], begin: str, end: str) -> Path:
    """A folder in the Hugging Face layout, without weights. `template` may be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(shared / "data" / "tok_gpt2" / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end} | ({"bos_token": begin} if begin else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def published(shared: Path, folder: Path, name: str) -> Path:
    """The folder of one published template."""
    tokens, begin, end = TEMPLATES[name]
    source = (shared / "data" / "tok_chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return write_folder(shared, folder / name, template=source, tokens=tokens, begin=begin, end=end)
