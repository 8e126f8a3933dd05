"""Read a model's ``config.json`` without trusting it.

A config can ask transformers to import code (``auto_map``), to fetch a compute kernel (an attention implementation with a slash), or to
unpack weights. None of that is a model's to decide here: such a config is refused by name, before transformers sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from luthier.core.errors import ModelError
from luthier.models.families import family_of

_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")
_PACKED = ("quantization_config", "compression_config")


def read_config(folder: Path) -> PretrainedConfig:
    """The checked config of a model folder.

    Raises:
        ModelError: there is none, it is not JSON, or it asks for something refused; the message names the key.
    """
    file = folder / "config.json"
    if (folder / "adapter_config.json").exists():  # transformers would apply it by itself, unasked, where peft is installed
        raise ModelError(
            "This is an adapter, not a model.",
            where=str(folder),
            remedy="Name its base as the model and load the adapter on top; a folder that holds both: move adapter_*.* out.",
            code="config",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            "There is no config.json.", where=str(folder), remedy="Give a folder in the Hugging Face layout.", code="config"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"This is not JSON: {error}.", where=str(file), remedy="Fetch the model again.", code="config") from error
    return build_config(content, where=str(file))


def build_config(content: Any, *, where: str = "") -> PretrainedConfig:
    """A transformers config from plain data, checked, its dropouts switched off.

    Dropout of the base is off because a tree shares what rows have in common, and one mask cannot be both rows' own; adapters have their
    own dropout on their input.

    Raises:
        ModelError: as `read_config`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise ModelError("The config does not say its model_type.", where=where, remedy="Fetch the model again.", code="config")
    refuse(content, where=where)
    family = family_of(content["model_type"], where=where)
    silenced = {key: 0.0 if _is_dropout(key, value) else value for key, value in content.items()}
    try:
        config: PretrainedConfig = CONFIG_MAPPING[content["model_type"]].from_dict(silenced)
    except Exception as error:  # transformers checks values with many exception types of its own
        raise ModelError(
            f"transformers does not accept this config: {error}.", where=where, remedy="Fetch the model again.", code="config"
        ) from error
    _silence(config)
    family.check(config, where=where)
    return config


def _silence(config: PretrainedConfig) -> None:
    """Switch off what the file did not spell out (GPT-2's default of 0.1), and the dropouts of the parts of a network of several."""
    for key, value in config.to_dict().items():
        if _is_dropout(key, value):
            setattr(config, key, 0.0)
        elif isinstance(part := getattr(config, key, None), PretrainedConfig):
            _silence(part)


def refuse(content: dict[str, Any], *, where: str = "") -> None:
    """Refuse code, kernels and packed weights, at any depth.

    Raises:
        ModelError: names the key and its value.
    """
    for path, key, value in _walk(content, ""):
        if value is None or value is False:
            continue
        if key in _CODE:
            raise _refused(
                path,
                value,
                where,
                "Luthier never runs code that comes with a model. Choose a base that transformers knows by itself.",
                "remote_code",
            )
        if key in _PACKED:
            raise _refused(path, value, where, "Packed weights are not read yet: choose the original bfloat16 model.", "packed_weights")
        if _chooses_kernel(key.lower(), value):
            raise _refused(path, value, where, "A model does not choose its kernels here: remove the key from config.json.", "kernel")


def _walk(content: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        yield here, str(key), value
        yield from _walk(value, here)


def _chooses_kernel(key: str, value: Any) -> bool:
    """``attn_implementation`` in any spelling, anything called a kernel, and every implementation with a slash (a repository to fetch).

    ``cache_implementation: hybrid`` of Gemma 3, and the ``_autoset`` flag older writers left behind, choose nothing.
    """
    named = ("attn_implementation" in key and not key.endswith("_autoset")) or ("kernel" in key and not isinstance(value, int))
    return named or ("implementation" in key and "/" in str(value))


def _refused(path: str, value: Any, where: str, remedy: str, code: str) -> ModelError:
    shown = json.dumps(value)
    return ModelError(f"{path} = {shown[:80]}{'...' if len(shown) > 80 else ''} is refused.", where=where, remedy=remedy, code=code)


def _is_dropout(key: str, value: Any) -> bool:
    named = key.endswith(("dropout", "dropout_rate", "layerdrop", "pdrop", "jitter_noise")) or "dropout_prob" in key
    return named and isinstance(value, int | float) and not isinstance(value, bool)
