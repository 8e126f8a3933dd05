"""Encoders: networks that read a row whole and say what it is. BERT, RoBERTa, DistilBERT, ModernBERT.

Every token of a row sees every other and nobody else (``models/whole.py``), so rows share no beginning. They write no next token: what is
learned on them is a head (`predict`) or where texts lie among each other (`embed`). A checkpoint's own head is kept.

T tokens of a pack, N states, D width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from luthier.core.errors import ModelError
from luthier.data.plain import ENCODERS
from luthier.models.families._linears import linears
from luthier.models.families._own_heads import labels_of, name_outputs
from luthier.models.predictor import Kind, Meaning
from luthier.models.sight import NAME, Sight
from luthier.models.whole import Whole

__all__ = [
    "GIVES",
    "MODEL_TYPES",
    "SPARE",
    "auto",
    "blocks",
    "check",
    "context",
    "embedding",
    "groups",
    "head",
    "linears",
    "states",
    "summary",
]

MODEL_TYPES = ENCODERS

GIVES = frozenset({"linears", "states", "words"})
"""What methods and objectives may ask of it: no next token, and nothing can be laid before its rows."""

APART = True
"""Rows share no beginning."""

ATTENTION = NAME
"""The attention it is loaded with."""

SPARE = (".pooler.", "embeddings.position_ids")
"""Weights a checkpoint may have that the network it is for does not read, e.g. RoBERTa's pooler; they are told, not lost in silence."""

MODERN = "ModernBertForSequenceClassification"

_KINDS: dict[str, Any] = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForPreTraining": AutoModelForPreTraining,
    "Model": AutoModel,
}
"""Ending of a checkpoint's architecture: with which head it is read."""

_SAME_INPUT = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
)
"""ModernBERT keeps its three in one matrix."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint with the head it has.

    Args:
        names: of its weights, where they are known.

    Raises:
        ModelError: the head is one that would be lost.
    """
    if any(name.startswith("cls.seq_relationship.") for name in names):
        return AutoModelForPreTraining  # the first BERTs say ForMaskedLM and hold a second head
    said = (config.architectures or ["Model"])[0]
    for ending, kind in _KINDS.items():
        if said.endswith(ending):
            return kind
    raise ModelError(
        f"A checkpoint of the kind {said} has a head that is not read, and would be lost.",
        where=where,
        remedy="Take the model it was made from, or one with a classification head.",
        code="model_type",
    )


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers that repeat, first to last."""
    base = cast(Any, network.base_model)
    inner = next((getattr(base, name) for name in ("encoder", "transformer") if hasattr(base, name)), base)
    return cast(nn.ModuleList, getattr(inner, "layer", None) or inner.layers)


def groups(block: nn.Module) -> list[tuple[str, ...]]:
    """Names of the linears of `block` that read the same input."""
    names = linears(block)
    return [group for group in _SAME_INPUT if all(name in names for name in group)]


def embedding(network: nn.Module) -> nn.Embedding:
    """Token id to vector."""
    found = network.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(found, nn.Embedding)
    return found


def head(network: nn.Module) -> nn.Linear:
    """There is none.

    Raises:
        ModelError: always; an encoder is asked for a label or an embedding.
    """
    raise ModelError(
        "An encoder writes no next token: it reads a text and says what it is.",
        remedy="Ask it with objective predict or embed; to write answers, choose a decoder (`luthier models` lists some).",
        code="no_next_token",
    )


def context(config: Any) -> int:
    """Longest row, in tokens, that the network reads as it was made to."""
    return int(config.max_position_embeddings) - _offset(config)


def check(config: Any, *, where: str = "") -> None:
    """Refuse what is no encoder, and a head that would be lost.

    Raises:
        ModelError: it writes, or looks at another network's states.
    """
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ModelError(
            "config.json makes a decoder of this encoder (is_decoder or add_cross_attention), which is not computed.",
            where=where,
            remedy="Choose another base model; `luthier models` lists some.",
            code="model_type",
        )
    auto(config, where=where)


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Sight) -> Tensor:
    """States of the last layer, ``[T, D]``, of rows that lie end to end.

    Args:
        tokens_T: token ids. positions_T: place of each in its row. sight: of the pack; every tree must be one row.
    """
    whole = Whole(sight)
    given: dict[str, Any] = {"input_ids": tokens_T[None].to(torch.int64), "position_ids": positions_T[None].to(torch.int64)}
    given["position_ids"] = given["position_ids"] + _offset(network.config)
    if getattr(network.config, "type_vocab_size", 0):
        given["token_type_ids"] = _types(network.config, given["input_ids"], whole)
    out = cast(nn.Module, network.base_model)(**given, sight=whole)
    states_TD: Tensor = out.last_hidden_state[0]
    if type(network).__name__ == MODERN and cast(Any, network.config).classifier_pooling == "mean":
        return _means_first(states_TD, whole)
    return states_TD


def summary(network: nn.Module, states_ND: Tensor, *, words: bool = False) -> Tensor:
    """What a head reads of the states at the rows' first tokens, ``[N, D]``: what the checkpoint's own linear reads.

    That is BERT's pooler, and the layer before the classifier of the others; the states themselves where there is none.

    Args:
        words: the states are those of single tokens, for a head that tags them.
    """
    mine, name = cast(Any, network), type(network).__name__
    if name == MODERN or (words and name == "ModernBertForTokenClassification"):
        return cast(Tensor, mine.head(states_ND))
    if words:
        return states_ND
    if getattr(mine.base_model, "pooler", None) is not None:
        return cast(Tensor, mine.base_model.pooler(states_ND[:, None]))
    if hasattr(mine, "pre_classifier"):
        return torch.relu(mine.pre_classifier(states_ND))
    if hasattr(getattr(mine, "classifier", None), "out_proj"):
        return torch.tanh(mine.classifier.dense(states_ND))
    return states_ND


def own_head(network: nn.Module) -> tuple[nn.Linear, Meaning] | None:
    """The checkpoint's own head: its last linear, which reads `summary` (of every token's state, where it tags), and what it says."""
    name, config = type(network).__name__, cast(Any, network.config)
    classifier = getattr(network, "classifier", None)
    if classifier is None or not name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return None
    linear = getattr(classifier, "out_proj", classifier)
    kind: Kind = "tags" if name.endswith("ForTokenClassification") else "class"
    if kind == "class" and (config.problem_type == "regression" or config.num_labels == 1):
        return linear, Meaning("number")
    if config.problem_type == "multi_label_classification":
        kind = "labels"
    return linear, Meaning(kind, labels_of(config, config.num_labels))


def publish(network: nn.Module, linear: nn.Linear, labels: tuple[str, ...], *, several: bool) -> None:
    """Put another last linear into the checkpoint's own head, and say in its config what it says: other software then reads it, too.

    Args:
        labels: one for each output; empty for a number. several: any number of them may be true.
    """
    mine, config = cast(Any, network), cast(Any, network.config)
    place = mine.classifier if hasattr(mine.classifier, "out_proj") else mine
    setattr(place, "out_proj" if place is not mine else "classifier", linear)
    mine.num_labels = linear.out_features
    name_outputs(config, labels, several=several)


def _offset(config: Any) -> int:
    """RoBERTa counts positions from behind its padding token's id."""
    return int(config.pad_token_id) + 1 if config.model_type == "roberta" else 0


def _means_first(states_TD: Tensor, whole: Whole) -> Tensor:
    """The mean of a row's states in the place of its first, for a head that looks at the mean (ModernBERT's ``classifier_pooling``)."""
    means_RD = torch.stack([states_TD[start:end].mean(0) for start, end in whole.spans])
    return states_TD.index_copy(0, torch.tensor([start for start, _ in whole.spans], device=states_TD.device), means_RD)


def _types(config: Any, tokens_1T: Tensor, whole: Whole) -> Tensor:
    """1 behind the first separator of a row, where the network tells two texts apart; else 0."""
    types = torch.zeros_like(tokens_1T)
    separator = getattr(config, "sep_token_id", None)
    if config.type_vocab_size < 2 or separator is None:
        return types
    for start, end in whole.spans:
        ends = (tokens_1T[0, start : end - 1] == separator).nonzero()
        if len(ends):
            types[0, start + int(ends[0]) + 1 : end] = 1
    return types
