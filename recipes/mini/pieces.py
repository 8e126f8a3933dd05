"""Train the tokenizer of the bundled base and write everything of the model folder except its weights.

    python recipes/mini/pieces.py SHARED FOLDER

Byte-level BPE: any text can be written, nothing is unknown. Digits stand alone, so that order numbers are copied digit by digit
instead of being cut differently each time; words keep their leading blank. Ids 0 to 3 are the special tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from corpus import documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from luthier.core.files import write_json

VOCABULARY = 6144
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
END, START_TURN, END_TURN, PAD = range(4)
CUTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where pieces may not reach across: contractions, words with one leading sign, single digits, runs of signs, line ends, blanks."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END_TURN,
    "pad_token_id": PAD,
    "use_cache": True,
    "dtype": "bfloat16",
}
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 1024,
    "eos_token": "<|im_end|>",
    "pad_token": "<|pad|>",
    "additional_special_tokens": ["<|endoftext|>", "<|im_start|>"],
    "clean_up_tokenization_spaces": False,
}
GENERATION_CONFIG: dict[str, Any] = {"eos_token_id": [END_TURN, END], "pad_token_id": PAD, "do_sample": False}


def empty() -> Tokenizer:
    """The tokenizer before training: how text is cut and put together again."""
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(CUTS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(texts: list[str]) -> Tokenizer:
    """Byte-level BPE of exactly `VOCABULARY` pieces."""
    tokenizer = empty()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def main() -> None:
    """Train and write; the chat template in the folder is kept: it is written by hand."""
    parser = argparse.ArgumentParser(description="Train the tokenizer of luthier-mini.")
    parser.add_argument("shared", type=Path, help="folder that holds corpus/ and data/")
    parser.add_argument("folder", type=Path, help="model folder to write into")
    asked = parser.parse_args()
    tokenizer = train([d.text for d in documents(asked.shared)])
    asked.folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(asked.folder / "tokenizer.json"))
    write_json(asked.folder / "config.json", CONFIG)
    write_json(asked.folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(asked.folder / "generation_config.json", GENERATION_CONFIG)
    print(f"{tokenizer.get_vocab_size()} pieces in {asked.folder}")


if __name__ == "__main__":
    main()
