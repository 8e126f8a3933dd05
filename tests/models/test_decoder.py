"""The decoder family against transformers' own forward, type by type."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from luthier.core.errors import ModelError
from luthier.models.families import decoder, family_of
from luthier.models.fused import FusedBlock
from luthier.models.sight import Sight
from luthier.models.slot import place

Make = Callable[..., Any]

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 0.05, "final_logit_softcapping": 0.05},
    "gemma3_text": {"sliding_window": 6, "final_logit_softcapping": 0.05},
    "mistral": {"sliding_window": 6},
    "phi3": {"sliding_window": 6},
    "mixtral": {"sliding_window": 6, "num_local_experts": 4, **EXPERTS},
    "qwen2_moe": {"sliding_window": 6, "use_sliding_window": True, "num_experts": 4, "shared_expert_intermediate_size": 24, **EXPERTS},
    "qwen3_moe": {"sliding_window": 6, "use_sliding_window": True, "num_experts": 4, **EXPERTS},
}
"""What a type needs to be tiny, a window shorter than the rows where it knows windows, soft caps that bite, a few experts."""

NUM_LINEARS = {"gpt2": 8, "gpt_neox": 8, "phi3": 8, "mixtral": 8, "qwen2_moe": 16, "qwen3_moe": 8}
"""Of two blocks: 14, but where q, k and v are one matrix, or the experts one weight (Qwen2-MoE also has an expert all tokens share)."""

TYPES = sorted(decoder.MODEL_TYPES)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_equals_transformers_on_a_tree(kind: str, tiny_model: Make) -> None:
    """Scores and gradients of two rows that share nine tokens, laid out as one tree, against each alone through eager attention."""
    model = tiny_model(model_type=kind, **SPECIAL.get(kind, {}))
    plain = AutoModelForCausalLM.from_config(deepcopy(model.config), attn_implementation="eager").eval()
    plain.load_state_dict(model.network.state_dict())
    model.network.requires_grad_(True)
    shared, first, second = [7, 5, 250, 17, 3, 99, 12, 8, 41], [30, 31, 32], [90, 91]
    tokens_T = torch.tensor(shared + first + second)
    positions_T = np.array([*range(12), 9, 10])
    ends_T = np.array([14] * 9 + [12] * 3 + [14] * 2)
    states_TD = model.states(tokens_T=tokens_T, positions_T=torch.from_numpy(positions_T), sight=Sight(ends_T, positions_T))
    found, wanted = torch.zeros(()), torch.zeros(())
    for row, places in ((shared + first, range(12)), (shared + second, [*range(9), 12, 13])):
        expected = plain(torch.tensor([row])).logits[0]
        logits = model.capped(model.head()(states_TD[list(places)]))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)
        targets = torch.tensor(row[1:])
        found, wanted = found + cross_entropy(logits[:-1], targets), wanted + cross_entropy(expected[:-1], targets)
    found.backward()
    wanted.backward()
    gradients = {name: p.grad for name, p in model.network.named_parameters()}
    for name, p in plain.named_parameters():
        assert (gradients[name] - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-9, name


@pytest.mark.parametrize("kind", TYPES)
def test_parts_are_found(kind: str, tiny_model: Make) -> None:
    model = tiny_model(model_type=kind, **SPECIAL.get(kind, {}))
    assert model.family is family_of(kind) is decoder
    assert len(model.blocks()) == 2
    assert model.embedding().num_embeddings == model.head().out_features == 320
    linears = model.linears()
    assert len(linears) == NUM_LINEARS.get(kind, 14)
    assert all(model.network.get_submodule(path) is linear for path, linear in linears.items())
    assert bool(decoder.groups(model.blocks()[0])) == (kind not in {"gpt2", "gpt_neox", "phi3"}), "these keep q, k and v in one matrix"
    assert model.context == 128


def test_grouped_linears_do_read_the_same_input(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedBlock, "_fits", lambda *_: False)  # a fused block takes what they read for granted
    model = tiny_model(model_type="qwen3")
    block, seen = model.blocks()[0], {}
    for name, linear in decoder.linears(block).items():
        linear.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, inputs[0]))
    model.states(tokens_T=torch.arange(5), positions_T=torch.arange(5), sight=Sight(np.full(5, 5), np.arange(5)))
    for group in decoder.groups(block):
        assert len({id(seen[name]) for name in group}) == 1
    assert len({id(x) for x in seen.values()}) == 4


def test_linears_are_seen_through_slots(tiny_model: Make) -> None:
    model = tiny_model()
    before = model.linears()
    for path in before:
        place(model.network, path)
    assert model.linears() == before
    assert all(isinstance(linear, nn.Linear) for linear in before.values())


def test_context_stops_where_rotary_frequencies_begin_to_change(tiny_model: Make) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    assert tiny_model(rope_parameters=rope).context == 64


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "mixtral", "output_router_logits": True}, r"a loss on the balance of the router.*Set it to false there"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "attention that looks forward"),
        ({"model_type": "opt"}, "A model of type 'opt' is not one Luthier tunes yet.*It reads: .*bert, .*gemma"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(changes: dict[str, Any], text: str, tiny_model: Make) -> None:
    with pytest.raises(ModelError, match=text):
        tiny_model(**changes)
