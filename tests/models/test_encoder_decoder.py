"""Encoder-decoders: rows of a source and a target, learned and written as plain transformers does it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import DataSpec, TrainSpec
from luthier.data.tokenise import tokenise
from luthier.engine.ahead import planned
from luthier.engine.score import score
from luthier.engine.session import Session
from luthier.export import merged
from luthier.inference.generate import generate
from luthier.inference.serving.crowd import Crowd
from luthier.inference.stream import stream
from luthier.methods import full, lora
from luthier.models.families import encoder_decoder, family_of
from luthier.models.load import load, save
from luthier.models.recompute import recompute
from luthier.objectives import sft
from tiny_families import T5, tiny

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)
PAIRS = [("say one", "eins"), ("say two, loudly", "ZWEI!"), ("say one", "uno"), ("", "nothing"), ("say one more", "noch eins")]
KINDS = {"1.0": {}, "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def made(*, seed: int = 0, **changes: Any) -> Any:
        return tiny(T5 | changes, tmp_path_factory.mktemp("t5"), seed=seed)

    return made


def examples() -> list[Example]:
    return [
        Example(Source("rows", n), "chat", [Message("user", source), Message("assistant", target)])
        for n, (source, target) in enumerate(PAIRS, 1)
    ]


def rows(model: Any) -> list[Row]:
    return [Row(each.source, model.renderer.render(each)) for each in examples()]


def twin(model: Any) -> Any:
    """The same network as transformers runs it."""
    plain = transformers.T5ForConditionalGeneration._from_config(
        copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32
    ).eval()
    plain.load_state_dict(model.network.state_dict())
    return plain


def plain_loss(plain: Any, sequence: Sequence) -> torch.Tensor:
    """Of one row, all by itself, as transformers makes it of labels."""
    tokens = torch.tensor(sequence.tokens).long()
    cut = tokens.tolist().index(0)
    logits = plain(input_ids=tokens[None, :cut], labels=tokens[None, cut + 1 :]).logits[0]
    return F.cross_entropy(logits, tokens[cut + 1 :], reduction="sum")


def test_a_row_is_its_source_the_first_token_and_its_target(make: Callable[..., Any]) -> None:
    mine = make().renderer
    (path,) = mine.render(examples()[0])
    cut = path.tokens.tolist().index(0)
    assert mine.decode(path.tokens[:cut]) == "say one</s>" and mine.decode(path.tokens[cut:]) == "<pad>eins</s>"
    assert path.weights.tolist() == [0.0] * (cut + 1) + [1.0] * 5
    assert mine.prompt_of(examples()[0]) == path.tokens[: cut + 1].tolist()
    assert mine.end_tokens == {1}


@pytest.mark.parametrize("budget", [20, 10_000])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_loss_and_gradients_equal_transformers(kind: str, budget: int, make: Callable[..., Any]) -> None:
    """Sources of different lengths in one pack, an empty one, and two answers to one source."""
    model = make(**KINDS[kind])
    plain = twin(model)
    asked = rows(model)
    wanted = torch.stack([plain_loss(plain, row.sequences[0]) for row in asked]).sum()
    wanted = wanted / sum(float(row.sequences[0].weights.sum()) for row in asked)
    wanted.backward()
    method = full.Method()
    method.attach(model)
    session = Session(model, method, sft.Objective(), rows=asked, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = session.gradient(planned(asked, budget))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    theirs = dict(plain.named_parameters())
    for name, p in model.network.named_parameters():
        assert p.grad is not None and (p.grad - theirs[name].grad).norm() < 1e-4 * theirs[name].grad.norm() + 1e-7, name


def test_one_source_is_read_once_for_all_its_answers(make: Callable[..., Any]) -> None:
    model, read = make(), []
    model.network.encoder.register_forward_hook(lambda _, args, kwargs, out: read.append(len(kwargs["input_ids"])), with_kwargs=True)
    score(model, [row.sequences[0] for row in rows(model)])
    assert read == [4], "five rows, two of them with the same source"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_answers_equal_transformers(kind: str, make: Callable[..., Any]) -> None:
    model = make(seed=3, num_decoder_layers=2, **KINDS[kind])  # transformers generates with equal stacks only
    with torch.no_grad():
        for p in model.network.parameters():
            p.mul_(2)  # answers that depend on what is read
    plain = twin(model)
    asked = [model.renderer.prompt_of(example) for example in examples()]
    found = generate(model, asked, max_tokens=8, stop=frozenset({1}))
    for prompt, generation in zip(asked, found, strict=True):
        wanted = plain.generate(torch.tensor([prompt[:-1]]), max_new_tokens=8, do_sample=False)[0, 1:].tolist()
        assert generation.tokens == wanted[: len(generation.tokens)] and (generation.stopped or len(generation.tokens) == 8)
        ours = score(model, [Sequence(torch.tensor([*prompt, *generation.tokens]).int().numpy(), _weights(prompt, generation.tokens))])[0]
        assert generation.logprobs == pytest.approx(ours.logprobs_L.tolist(), abs=1e-4)
    assert len({tuple(each.tokens) for each in found}) > 2
    assert "".join(stream(model, asked[1], max_tokens=8)) == model.renderer.decode(found[1].answer)


def _weights(prompt: list[int], said: list[int]) -> Any:
    return torch.tensor([0.0] * len(prompt) + [1.0] * len(said)).numpy()


def test_lora_learns_merges_and_is_read_by_transformers(make: Callable[..., Any], tmp_path: Path) -> None:
    model = make()
    save(model, tmp_path / "base")
    model = load(str(tmp_path / "base"), dtype="float32")
    assert model.family is family_of("t5") is encoder_decoder
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=0)
    asked = rows(model)
    session = Session(model, method, sft.Objective(), rows=asked, train=TRAIN.model_copy(update={"epochs": 60, "learning_rate": 3e-2}))
    losses = [session.advance().loss for _ in range(session.steps)]
    assert losses[-1] < 0.5 * losses[0]
    assert any("EncDecAttention" in path for path in model.linears())
    tuned = score(model, [row.sequences[0] for row in asked])
    merged.export(model, method, tmp_path / "merged")
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    with torch.no_grad():
        for row, mine in zip(asked, tuned, strict=True):
            assert -mine.total == pytest.approx(plain_loss(theirs, row.sequences[0]).item(), rel=1e-3)


def test_saved_is_loaded_again(make: Callable[..., Any], tmp_path: Path) -> None:
    for kind, changes in KINDS.items():
        model = make(**changes)
        save(model, tmp_path / kind)
        again = load(str(tmp_path / kind), dtype="float32")
        assert again.renderer.fingerprint == model.renderer.fingerprint
        sequences = [row.sequences[0] for row in rows(model)]
        assert [s.total for s in score(again, sequences)] == pytest.approx([s.total for s in score(model, sequences)], rel=1e-5)


def test_recomputed_blocks_give_the_same_gradient(make: Callable[..., Any]) -> None:
    def gradient(again: bool, offload: bool = False) -> list[torch.Tensor]:
        model = make()
        method = full.Method()
        method.attach(model)
        recompute(model, again, offload=offload)
        asked = rows(model)
        Session(model, method, sft.Objective(), rows=asked, train=TRAIN).gradient(planned(asked, 1000))
        return [p.grad for p in model.network.parameters() if p.grad is not None]

    for plain, again, moved in zip(gradient(False), gradient(True), gradient(True, offload=True), strict=True):
        assert torch.allclose(plain, again, atol=1e-6)
        assert torch.equal(again, moved)


def test_dropout_is_off(make: Callable[..., Any]) -> None:
    assert {module.p for module in make().network.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_what_does_not_go_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    model = make()
    with pytest.raises(ModelError, match="does not serve yet"):
        Crowd(model)
    with pytest.raises(ModelError, match="names no decoder's first token"):
        make(decoder_start_token_id=None)
    pair = Example(Source("rows", 1), "preference", [Message("user", "a")], chosen=[Message("assistant", "b")])
    with pytest.raises(DataError, match="answers to compare"):
        model.renderer.render(pair)
    long = [Example(Source("rows", 1), "chat", [Message("user", "a" * 200), Message("assistant", "b")])]
    with pytest.raises(DataError, match="the model reads 128"):
        tokenise(long, renderer=model.renderer, data=DataSpec(), context=model.context, cache=tmp_path / "cache", key="k")
