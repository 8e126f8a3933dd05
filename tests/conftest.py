"""What every room's tests may ask for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data, corpora and models that lie beside the repository; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LUTHIER_SHARED")
    return folder


TINY_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""A network small enough to be made in milliseconds; tests change what they are about."""

TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level tokenizer without merges and a ChatML template: reads anything, in 259 pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from luthier.data.render import Renderer

    folder = tmp_path_factory.mktemp("renderer")
    pieces = ["<|pad|>", "<|im_end|>", "<|im_start|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TINY_TEMPLATE)
    return Renderer.from_folder(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_renderer: Any) -> Callable[..., Any]:
    """Make a small model from random weights: ``tiny_model(model_type="qwen3", seed=3, dtype="float32")``."""
    from luthier.models.load import fresh

    def make(*, seed: int = 0, dtype: str = "float32", name: str = "tiny", **changes: Any) -> Any:
        return fresh(TINY_CONFIG | changes, renderer=tiny_renderer, seed=seed, dtype=dtype, name=name)

    return make
