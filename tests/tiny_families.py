"""A tiny network of each family that reads something else than words, or writes beside them: random weights, a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "vocab_size": 300,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.1,
    "decoder_start_token_id": 0,
    "n_positions": 64,
}
WHISPER: dict[str, Any] = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": 300,
    "num_mel_bins": 80,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 50,
    "max_target_positions": 32,
    "decoder_start_token_id": 2,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "dropout": 0.1,
    "encoder_layerdrop": 0.5,
}
AST: dict[str, Any] = {
    "model_type": "audio-spectrogram-transformer",
    "architectures": ["ASTForAudioClassification"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_mel_bins": 32,
    "max_length": 40,
    "patch_size": 16,
    "frequency_stride": 8,
    "time_stride": 8,
    "id2label": {0: "low", 1: "high"},
    "label2id": {"low": 0, "high": 1},
}
VIT: dict[str, Any] = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 12, "patch_size": 4}
LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 1,
    "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16, **TOWER},
    "text_config": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    },
}
PARTS = (
    "{% for message in messages %}{{ message.role + ': ' }}"
    "{% for part in message.content %}{% if part.type == 'image' %}{{ '<image>' }}{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
SQUARES = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "chunk_length": 1},
    "audio-spectrogram-transformer": {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 32, "max_length": 40},
    "vit": SQUARES,
    "deit": SQUARES,
    "llava": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}},
}
PIECES = {
    "t5": ["<pad>", "</s>"],
    "whisper": ["<pad>", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"],
    "llava": ["<pad>", "<image>", "<end>"],
}
ENDS = {"t5": "</s>", "whisper": "<|endoftext|>", "llava": "<end>"}
FAMILIES = {"t5": T5, "whisper": WHISPER, "ast": AST, "vit": VIT, "llava": LLAVA}


def tiny(config: dict[str, Any], folder: Path, *, seed: int = 0, template: str = PARTS, said: dict[str, Any] | None = None) -> Any:
    """A model of random weights; `folder` gets what its renderer is read from.

    Args:
        template: of conversations with pictures. said: what a transcriber's generation_config.json says.
    """
    from luthier.data.render import Renderer
    from luthier.models.load import fresh

    kind = config["model_type"]
    if kind in PIECES:
        _bytes(kind, folder)
    if kind in PROCESSORS:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    if kind == "whisper":
        (folder / "generation_config.json").write_text(json.dumps(said or {}))
    if kind == "llava":
        (folder / "chat_template.jinja").write_text(template)
    (folder / "config.json").write_text(json.dumps(config))
    return fresh(config, renderer=Renderer.from_folder(folder), seed=seed, dtype="float32", name="tiny")


def saved(name: str, folder: Path, **changes: Any) -> Path:
    """The folder of a tiny model, as a user would have it."""
    from luthier.models.load import save

    (folder / f"raw-{name}").mkdir(parents=True)
    save(tiny(FAMILIES[name] | changes, folder / f"raw-{name}"), folder / name)
    return folder / name


def _bytes(kind: str, folder: Path) -> None:
    pieces = [*PIECES[kind], *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "t5":
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(PIECES[kind])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": ENDS[kind], "pad_token": "<pad>"}))
