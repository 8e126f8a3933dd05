"""Generation against transformers, token by token; against the engine's log-probabilities; independent of batching."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError, SpecError
from luthier.core.sequence import Sequence
from luthier.engine.score import score
from luthier.inference.generate import Generation, generate
from luthier.inference.prefill import forest
from luthier.models.load import fresh
from luthier.models.model import Model

STOP = frozenset(range(3, 9))


def prompts() -> list[list[int]]:
    """Sixteen that share 60 tokens, one by itself, one of a single token, one twice, and one that is the beginning of another."""
    source = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(9, 512, (count,), generator=source).tolist()

    head = draw(60)
    many = [head + draw(int(n)) for n in torch.randint(1, 30, (16,), generator=source)]
    return [*many, draw(5), [17], many[3], many[3][:62]]


def reference(model: Model, prompt: list[int], *, limit: int, stop: frozenset[int]) -> list[int]:
    """What transformers writes, greedily, with its own attention and cache."""
    plain: Any = type(model.network)(copy.deepcopy(model.config))
    plain.load_state_dict(model.network.state_dict())
    plain.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    out = plain.eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=sorted(stop), pad_token_id=0
    )
    return list(out[0, len(prompt) :].tolist())


def test_greedy_answers_equal_transformers(network: Model) -> None:
    found = generate(network, prompts(), max_tokens=16, stop=STOP)
    for prompt, generation in zip(prompts(), found, strict=True):
        wanted = reference(network, prompt, limit=16, stop=STOP)
        assert generation.tokens == wanted
        assert generation.stopped == (wanted[-1] in STOP)
    assert any(g.stopped for g in found)
    assert not all(g.stopped for g in found)


def test_a_real_model_tells_the_same_story_as_transformers(stories: Model) -> None:
    begin = [1, *stories.renderer.encode("Once upon a time, there was a")]
    (found,) = generate(stories, [begin], max_tokens=80, stop=frozenset({2}))
    assert found.tokens == reference(stories, begin, limit=80, stop=frozenset({2}))
    assert "little" in stories.renderer.decode(found.answer)


def test_log_probabilities_equal_the_engines(network: Model) -> None:
    found = generate(network, prompts(), max_tokens=12)
    sequences = [
        Sequence(np.array(p + g.tokens, np.int32), np.array([0.0] * len(p) + [1.0] * len(g.tokens), np.float32))
        for p, g in zip(prompts(), found, strict=True)
    ]
    for generation, scored in zip(found, score(network, sequences), strict=True):
        np.testing.assert_allclose(generation.logprobs, scored.logprobs_L, atol=2e-5)
        assert scored.hits_L.all()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batching_and_order_of_work_change_nothing(llama: Model, temperature: float) -> None:
    settings: dict[str, Any] = {"max_tokens": 10, "temperature": temperature, "top_p": 0.9, "seed": 3, "stop": STOP}
    together = generate(llama, prompts(), **settings)
    alone = generate(llama, prompts(), budget=1, **settings)
    few = generate(llama, prompts(), budget=400, **settings)
    assert [g.tokens for g in together] == [g.tokens for g in alone] == [g.tokens for g in few]


def test_sampling_follows_the_seed_and_the_models_own_distribution(llama: Model) -> None:
    prompt = prompts()[0]
    drawn = [g.tokens[0] for g in generate(llama, [prompt] * 2000, max_tokens=1, temperature=1.0, seed=0)]
    assert drawn == [g.tokens[0] for g in generate(llama, [prompt] * 2000, max_tokens=1, temperature=1.0, seed=0)]
    assert drawn != [g.tokens[0] for g in generate(llama, [prompt] * 2000, max_tokens=1, temperature=1.0, seed=1)]
    likeliest = generate(llama, [prompt], max_tokens=1)[0]
    share = float(np.exp(likeliest.logprobs[0]))
    assert drawn.count(likeliest.tokens[0]) / 2000 == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)


def test_a_tiny_top_p_is_greedy(llama: Model) -> None:
    greedy = generate(llama, prompts(), max_tokens=8)
    assert [g.tokens for g in generate(llama, prompts(), max_tokens=8, temperature=1.0, top_p=1e-6)] == [g.tokens for g in greedy]


def test_each_row_has_its_own_limit_and_the_context_ends_rows(llama: Model) -> None:
    long = (prompts()[0] * 4)[:250]
    room = llama.context - len(long)
    found = generate(llama, [long, [17], [18]], max_tokens=[10_000, 3, 1])
    assert [len(g.tokens) for g in found] == [room, 3, 1]
    assert not any(g.stopped for g in found)


def test_progress_reaches_every_row(llama: Model) -> None:
    seen: list[tuple[int, int]] = []
    generate(llama, prompts(), max_tokens=4, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 20) for i in range(20)]


def test_the_answer_leaves_the_end_token_out() -> None:
    assert Generation([5, 6, 2], stopped=True).answer == [5, 6]
    assert Generation([5, 6], stopped=False).answer == [5, 6]


def test_a_forest_reads_a_shared_beginning_once() -> None:
    rows = sorted(prompts()[:16])
    tree = forest(rows)
    assert len(tree.tokens_T) < sum(map(len, rows)) - 15 * 59
    for row, path in zip(rows, tree.paths, strict=True):
        assert tree.tokens_T[path].tolist() == row
        assert tree.positions_T[path].tolist() == list(range(len(row)))
        sees = tree.sight().dense()[path[-1]].nonzero().squeeze(1).tolist()
        assert sees == path.tolist()


def test_a_prompt_that_fills_the_context_is_refused(llama: Model) -> None:
    with pytest.raises(DataError, match=r"prompt 2 has 256 tokens, but llama reads 256 and needs room for an answer\. Shorten it"):
        generate(llama, [[1], [1] * 256], max_tokens=1)


def test_an_empty_prompt_is_refused(llama: Model) -> None:
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        generate(llama, [[]], max_tokens=1)


@pytest.mark.parametrize(("settings", "words"), [({"temperature": -1.0}, "temperature = -1.0"), ({"top_p": 0.0}, "top_p = 0.0")])
def test_impossible_settings_are_refused(llama: Model, settings: dict[str, float], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        generate(llama, [[1]], max_tokens=1, **settings)  # type: ignore[arg-type]


EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16}
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {},
    "mixtral": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24, "use_sliding_window": True},  # every second layer
    "gemma2": {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 16},
}


@pytest.mark.parametrize("kind", sorted(WINDOWS))
def test_a_sliding_window_is_kept_while_decoding(kind: str, llama: Model) -> None:
    config = {**llama.config.to_diff_dict(), "model_type": kind, "sliding_window": 16, **WINDOWS[kind]}
    model = fresh(config, renderer=llama.renderer, seed=2, dtype="float32")
    some = [*prompts()[:3], prompts()[16]]
    found = generate(model, some, max_tokens=16)
    assert [g.tokens for g in found] == [reference(model, p, limit=16, stop=frozenset({511 + 1})) for p in some]
