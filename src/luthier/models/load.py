"""Load, make and save models. safetensors only, in the Hugging Face layout, deterministic, and nothing missing goes unnoticed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging

from luthier.core.errors import ModelError
from luthier.core.files import new_folder
from luthier.data.plain import Plain
from luthier.data.render import Renderer
from luthier.models import predictor
from luthier.models.config import build_config, read_config
from luthier.models.device import own_device
from luthier.models.families import family_of
from luthier.models.find import checked_folder, find
from luthier.models.fused import fuse
from luthier.models.lean import make_lean
from luthier.models.machine import compute_dtype
from luthier.models.mapped import forget
from luthier.models.model import Model
from luthier.models.quantize import pack, packed_weights
from luthier.models.slot import slots

_POOLED = frozenset({"BertModel", "RobertaModel"})
"""Classes that make a pooler of random numbers where the checkpoint has none."""

__all__ = ["find", "fresh", "load", "outline", "save", "shallow"]

DType = Literal["auto", "bfloat16", "float32", "nf4", "int8"]
"""``nf4`` and ``int8`` pack the linears of the blocks and compute in what ``auto`` computes in."""


def load(name: str, *, dtype: DType | torch.dtype = "auto", context: int | Literal["auto"] = "auto", download: bool = False) -> Model:
    """A base by name (see `find`), frozen, in eval mode, on this process's accelerator if it has one.

    Raises:
        NotFound: no such model here.
        ModelError: a part is missing, the config asks for something refused, or `context` is longer than the model reads.
        MissingPart: the library that packs is not installed.
    """
    return load_folder(find(name, download=download), name=name, dtype=dtype, context=context)


def load_folder(folder: Path, *, name: str = "", dtype: DType | torch.dtype = "auto", context: int | Literal["auto"] = "auto") -> Model:
    """`load` for a folder that is already known."""
    config = read_config(checked_folder(folder))
    renderer = Renderer.from_folder(folder)
    network, spare = _read_network(config, folder, number_format(dtype))
    if spare:
        renderer.notes.append(
            f"{len(spare)} weights of this checkpoint are not read: {', '.join(spare[:3])}{' ...' if len(spare) > 3 else ''}."
        )
    if dtype == "nf4" or dtype == "int8":
        pack(family_of(config.model_type).blocks(network), dtype, device=own_device())
    model = _model(network, config, name=name or folder.name, folder=folder, renderer=renderer, dtype=number_format(dtype), context=context)
    model.packing = dtype if dtype == "nf4" or dtype == "int8" else ""
    model.network.to(own_device())
    forget(folder)
    if (folder / predictor.FOLDER).is_dir():
        model.predictor = predictor.Predictor.load(folder, device=own_device()).requires_grad_(False)
    return model


def fresh(
    config: dict[str, Any],
    *,
    renderer: Renderer,
    seed: int,
    dtype: DType | torch.dtype = "auto",
    name: str = "fresh",
    context: int | Literal["auto"] = "auto",
) -> Model:
    """A network with random weights that follow from `seed` alone: the start of pretraining, and what tests use.

    Args:
        config: plain data as in a ``config.json``, with its ``model_type``.

    Raises:
        ModelError: as for `load`.
    """
    checked = build_config(config, where="config")
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        network = _made(checked, torch.float32)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(number_format(dtype))  # not network.to(): rotary frequencies stay fp32
    return _model(network, checked, name=name, folder=Path(), renderer=renderer, dtype=number_format(dtype), context=context)


def outline(config: PretrainedConfig, *, renderer: Renderer, dtype: DType | torch.dtype = "auto") -> Model:
    """A network with shapes and no numbers: whatever its size, it takes no memory. For counting."""
    return _without_folder(config, "outline", renderer, number_format(dtype), torch.device("meta"))


def shallow(config: PretrainedConfig, *, renderer: Renderer, blocks: int, vocabulary: int, dtype: DType | torch.dtype = "auto") -> Model:
    """A network of real widths with few blocks and token ids, its weights random: what a block asks of memory can be seen on it."""
    whole = copy.deepcopy(config)
    small = whole.get_text_config()  # of a network that also sees, the part that reads
    small.num_hidden_layers, small.vocab_size = blocks, vocabulary
    if small is not whole:
        whole.image_token_id = vocabulary - 1
    for stack in ("num_decoder_layers", "decoder_layers"):
        if hasattr(small, stack):
            setattr(small, stack, blocks)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:blocks]
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    return _without_folder(whole, "shallow", renderer, number_format(dtype), torch.device("cpu"))


def _without_folder(config: PretrainedConfig, name: str, renderer: Renderer, dtype: torch.dtype, device: torch.device) -> Model:
    with torch.random.fork_rng(devices=[]), _quiet(), device:
        network = _made(copy.deepcopy(config), dtype)
    family = family_of(config.model_type)
    make_lean(network)
    fuse(network)
    network.eval().requires_grad_(False)
    return Model(name, Path(), network, family, renderer, dtype, family.context(config))


def _made(config: PretrainedConfig, dtype: torch.dtype) -> nn.Module:
    family = family_of(config.model_type)
    network: nn.Module = family.auto(config).from_config(config, dtype=dtype, attn_implementation=family.ATTENTION)
    return network


def save(model: Model, folder: Path) -> None:
    """Write a plain model in the Hugging Face layout, with the tokenizer and the frozen template. Whole, or not at all.

    An older `folder` is replaced.

    Raises:
        StorageError: the disk is full or read-only.
    """
    assert not slots(model.network), "merge or restore first: slots are not part of the Hugging Face layout"
    with new_folder(folder) as part, _quiet():
        _publish(model)
        model.network.save_pretrained(part)  # type: ignore[operator]
        model.renderer.save(part)
        if model.predictor is not None:
            model.predictor.save(part)


def _publish(model: Model) -> None:
    """Let the checkpoint's own head say what the predictor says, so that other software that loads the folder hears the same."""
    own, mine = model.family.own_head(model.network), model.predictor
    if own is None or mine is None or (own[1].kind == "tags") != (mine.meaning.kind == "tags"):
        return
    linear, labels = mine.linear()
    model.family.publish(model.network, linear.to(model.dtype), labels, several=mine.meaning.kind in ("labels", "ordinal"))


def reload(model: Model, *, dtype: DType | torch.dtype | None = None) -> Model:
    """A second, untouched copy of `model`'s base from its folder: the base's answers after full tuning."""
    again = load_folder(model.folder, name=model.name, dtype=dtype or model.packing or model.dtype)
    return replace(again, context=model.context, renderer=model.renderer)


def number_format(dtype: DType | torch.dtype) -> torch.dtype:
    """The torch dtype behind a name; ``auto`` and the packed ones mean what the processor computes in."""
    if isinstance(dtype, torch.dtype):
        return dtype
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(dtype, compute_dtype())


def _read_network(config: PretrainedConfig, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    """The network, and the names of weights that nobody reads."""
    names = {name for file in sorted(folder.glob("*.safetensors")) for name in _names(file)}
    family = family_of(config.model_type)
    kind = cast(Any, family.auto(config, names, where=str(folder))._model_mapping[type(config)])
    pooler = {"add_pooling_layer": False} if kind.__name__ in _POOLED and not any("pooler." in name for name in names) else {}
    try:
        with _quiet():
            network, found = kind.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                attn_implementation=family.ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they come back in `found` and are named
                **pooler,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The weights do not load: {error}", where=str(folder), remedy="Fetch the model again.", code="weights") from error
    spare = _check_complete(found, folder, family.SPARE)
    assert isinstance(network, nn.Module)
    return network, spare


def _names(file: Path) -> list[str]:
    """Of the weights in a file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"This is not a whole safetensors file: {error}.", where=str(file), remedy="Fetch the model again.", code="weights"
        ) from error


def _check_complete(found: dict[str, Any], folder: Path, spare: tuple[str, ...]) -> list[str]:
    """transformers fills missing weights with random numbers and says so in a log line; here it is an error. Returns those to spare."""
    unread = sorted(name for name in found.get("unexpected_keys", ()) if any(part in name for part in spare))
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted({key if isinstance(key, str) else str(key[0]) for key in found.get(kind, ())} - set(unread))
        if names:
            raise ModelError(
                f"{len(names)} weights are {kind.removesuffix('_keys')}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}.",
                where=str(folder),
                remedy="The weights do not belong to this config.json: fetch the model again.",
                code="weights",
            )
    return unread


def _model(
    network: nn.Module,
    config: PretrainedConfig,
    *,
    name: str,
    folder: Path,
    renderer: Renderer,
    dtype: torch.dtype,
    context: int | Literal["auto"],
) -> Model:
    family = family_of(config.model_type)
    longest = family.context(config)
    if context != "auto" and context > longest:
        raise ModelError(
            f"A context of {context:,} tokens was asked for, but {name} reads {longest:,}.",
            remedy=f"Set model.context to at most {longest}, or leave it out.",
            code="context",
        )
    make_lean(network)
    if not packed_weights(network):
        fuse(network)
    if isinstance(renderer.plain, Plain) and getattr(config, "type_vocab_size", 0) > 1:
        cast(Any, network.config).sep_token_id = renderer.end_token  # what tells two texts apart
    model = Model(name, folder, network.eval().requires_grad_(False), family, renderer, dtype, longest if context == "auto" else context)
    own = family.own_head(model.network)
    if own is not None:
        model.predictor = predictor.Predictor.like(*own).requires_grad_(False)
    _check_fit(model)
    return model


def _check_fit(model: Model) -> None:
    rows = model.vocabulary
    if model.renderer.vocab_size > rows:
        raise ModelError(
            f"The tokenizer knows {model.renderer.vocab_size:,} tokens, the embedding {rows:,}.",
            where=str(model.folder),
            remedy="The tokenizer does not belong to these weights: fetch the model again.",
            code="tokenizer",
        )
    if "next-token" in model.family.GIVES and model.head().bias is not None:
        raise ModelError(
            "The head has a bias, which the engine does not compute.",
            where=str(model.folder),
            remedy="Choose another base.",
            code="model_type",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and log lines of transformers: what matters in them is raised as an error here."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
