"""The encoder family against transformers' own forward, one row at a time, type by type and head by head."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.engine.forest import states as forest_states
from luthier.engine.pack import packs
from luthier.models.families import encoder, family_of
from luthier.models.load import load, save
from luthier.models.predictor import Meaning, Predictor
from luthier.models.sight import Sight
from luthier.models.whole import Whole

Make = Callable[..., Any]

SPECIAL: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "roberta": {"type_vocab_size": 1},
    "modernbert": {
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "cls_token_id": 1,
    },
}
"""What a type needs to be tiny; ModernBERT with a window shorter than the rows."""

NAMES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "modernbert": "ModernBert"}
TYPES = sorted(encoder.MODEL_TYPES)
ROWS = [[1, 40, 41, 42, 43, 44, 45, 46, 47, 2], [1, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 2], [1, 99, 2], [1, 7, 8, 9, 2, 60, 61, 2]]


def made(tiny_encoder: Make, kind: str, ending: str = "Model", **changes: Any) -> Any:
    return tiny_encoder(kind, NAMES[kind] + ending, **SPECIAL.get(kind, {}) | changes)


def plain(model: Any) -> Any:
    """The same network with transformers' own attention."""
    twin = type(model.network)._from_config(deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    twin.load_state_dict(model.network.state_dict())
    return twin


def end_to_end(rows: list[list[int]]) -> dict[str, Any]:
    """Rows of a pack, nothing shared."""
    lengths = [len(row) for row in rows]
    positions, ends = np.concatenate([np.arange(n) for n in lengths]), np.repeat(np.cumsum(lengths), lengths)
    tokens_T = torch.tensor([token for row in rows for token in row])
    return {"tokens_T": tokens_T, "positions_T": torch.from_numpy(positions), "sight": Sight(ends, positions)}


def types_of(model: Any, row: list[int]) -> dict[str, Tensor]:
    if getattr(model.config, "type_vocab_size", 0) < 2:
        return {}
    first = row.index(2) + 1
    return {"token_type_ids": torch.tensor([[0] * first + [1] * (len(row) - first)])}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_equals_transformers_row_by_row(kind: str, tiny_encoder: Make) -> None:
    """States and gradients of rows that begin alike, packed end to end; one of them is a pair."""
    model = made(tiny_encoder, kind)
    twin = plain(model)
    model.network.requires_grad_(True)
    found = model.states(**end_to_end(ROWS)).split([len(row) for row in ROWS])
    wanted = [twin(torch.tensor([row]), **types_of(model, row)).last_hidden_state[0] for row in ROWS]
    mix = torch.randn(32, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for states in (found, wanted):
        torch.stack([row.sin().mean(0) @ mix for row in states]).sum().backward()
    gradients = {name: p.grad for name, p in model.network.named_parameters()}
    for name, p in twin.named_parameters():
        if p.grad is not None:
            assert (gradients[name] - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-8, name


@pytest.mark.parametrize("ending", ["ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_checkpoints_own_head_reads_what_it_read(kind: str, ending: str, tiny_encoder: Make) -> None:
    model = made(tiny_encoder, kind, ending, num_labels=3)
    twin = plain(model)
    states = model.states(**end_to_end(ROWS)).split([len(row) for row in ROWS])
    for row, found in zip(ROWS, states, strict=True):
        wanted = twin(torch.tensor([row]), **types_of(model, row)).logits[0]
        words = ending == "ForTokenClassification"
        read = encoder.summary(model.network, found if words else found[:1], words=words)
        linear = getattr(model.network.classifier, "out_proj", model.network.classifier)
        torch.testing.assert_close(linear(read).squeeze(0), wanted, rtol=1e-4, atol=1e-5)


def test_modernbert_may_read_the_mean(tiny_encoder: Make) -> None:
    model = made(tiny_encoder, "modernbert", "ForSequenceClassification", num_labels=3, classifier_pooling="mean")
    twin = plain(model)
    states = model.states(**end_to_end(ROWS)).split([len(row) for row in ROWS])
    for row, found in zip(ROWS, states, strict=True):
        read = encoder.summary(model.network, found[:1])
        torch.testing.assert_close(model.network.classifier(read)[0], twin(torch.tensor([row])).logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_rows_in_a_rectangle_equal_row_by_row(window: int | None) -> None:
    """The form for accelerators, on a CPU."""
    whole = Whole(end_to_end(ROWS)["sight"])
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 33, 8, generator=source) for heads in (4, 2, 2))
    torch.testing.assert_close(whole._padded(q, k, v, 0.3, window), whole._row_by_row(q, k, v, 0.3, window))


@pytest.mark.parametrize("kind", TYPES)
def test_parts_are_found(kind: str, tiny_encoder: Make) -> None:
    model = made(tiny_encoder, kind, "ForMaskedLM")
    assert model.family is family_of(kind) is encoder
    assert len(model.blocks()) == 2
    assert model.embedding().num_embeddings == 320
    linears = model.linears()
    assert len(linears) == (8 if kind == "modernbert" else 12)
    assert all(model.network.get_submodule(path) is linear for path, linear in linears.items())
    assert bool(encoder.groups(model.blocks()[0])) == (kind != "modernbert")
    assert model.context == (127 if kind == "roberta" else 128), "positions are counted from behind the padding token"


def test_rows_of_an_encoder_share_nothing_in_a_pack(tiny_encoder: Make) -> None:
    model = made(tiny_encoder, "bert")
    rows = [
        Row(Source("rows", n), [Sequence(np.array(row, np.int32), np.eye(len(row), dtype=np.float32)[1], apart=True)])
        for n, row in enumerate(ROWS)
    ]
    (pack,) = packs(rows, 1000)
    assert len(pack.tokens_T) == sum(map(len, ROWS))
    states = forest_states(model, pack)[torch.from_numpy(pack.rows_N)]  # the state at each row's first token
    for place, member in enumerate(pack.members):
        wanted = plain(model)(torch.tensor([ROWS[member]]), **types_of(model, ROWS[member])).last_hidden_state[0, 0]
        torch.testing.assert_close(states[place], wanted, rtol=1e-4, atol=1e-5)


def test_shared_beginnings_are_no_rows_of_an_encoder(tiny_encoder: Make) -> None:
    positions = np.array([0, 1, 2, 3, 2, 3])
    sight = Sight(np.array([6, 6, 4, 4, 6, 6]), positions)
    with pytest.raises(AssertionError, match="share no beginning"):
        made(tiny_encoder, "bert").states(tokens_T=torch.arange(6), positions_T=torch.from_numpy(positions), sight=sight)


@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification"])
def test_every_head_survives_a_save(ending: str, tiny_encoder: Make, tmp_path: Path) -> None:
    model = made(tiny_encoder, "bert", ending)
    save(model, tmp_path / "model")
    assert not (tmp_path / "model" / "chat_template.jinja").exists()
    again = load(str(tmp_path / "model"), dtype="float32")
    assert type(again.network) is type(model.network) is getattr(transformers, f"Bert{ending}")
    for name, weight in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], weight), name
    assert again.renderer.fingerprint == model.renderer.fingerprint
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "model", attn_implementation="eager")
    expected = theirs(torch.tensor([ROWS[0]])).last_hidden_state[0]
    torch.testing.assert_close(again.states(**end_to_end(ROWS[:1])), expected, rtol=1e-4, atol=1e-5)


def test_the_first_berts_hold_a_head_their_config_does_not_name(tiny_encoder: Make, tmp_path: Path) -> None:
    save(made(tiny_encoder, "bert", "ForPreTraining"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("BertForPreTraining", "BertForMaskedLM"))
    assert type(load(str(tmp_path / "model")).network).__name__ == "BertForPreTraining"


def test_what_a_checkpoint_has_and_nobody_reads_is_told(tiny_encoder: Make, tmp_path: Path) -> None:
    """RoBERTa is published with a pooler that its network for masked words does not have."""
    save(made(tiny_encoder, "roberta", "ForMaskedLM"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file(load_file(file) | {"roberta.pooler.dense.weight": torch.eye(32)}, file, metadata={"format": "pt"})
    assert load(str(tmp_path / "model")).renderer.notes == ["1 weights of this checkpoint are not read: roberta.pooler.dense.weight."]
    save_file(load_file(file) | {"roberta.other.weight": torch.eye(32)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are unexpected: roberta\.other\.weight"):
        load(str(tmp_path / "model"))


def test_a_pooler_is_not_made_up(tiny_encoder: Make, tmp_path: Path) -> None:
    save(made(tiny_encoder, "bert"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "pooler" not in k}, file, metadata={"format": "pt"})
    model = load(str(tmp_path / "model"), dtype="float32")
    states = torch.randn(3, 32)
    assert model.network.pooler is None
    assert encoder.summary(model.network, states) is states


def test_packed_linears_of_an_encoder(tiny_encoder: Make, tmp_path: Path) -> None:
    model = made(tiny_encoder, "bert", hidden_size=64, intermediate_size=128)
    save(model, tmp_path / "model")
    packed = load(str(tmp_path / "model"), dtype="int8")
    assert packed.packing == "int8"
    assert len(packed.linears()) == 12
    ours, wanted = packed.states(**end_to_end(ROWS)).float(), model.states(**end_to_end(ROWS))
    assert (ours - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"is_decoder": True}, "makes a decoder of this encoder"),
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering has a head that is not read, and would be lost"),
    ],
)
def test_what_is_no_encoder_is_refused(changes: dict[str, Any], text: str, tiny_encoder: Make) -> None:
    with pytest.raises(ModelError, match=text):
        tiny_encoder(**changes)


def test_it_writes_nothing(tiny_encoder: Make) -> None:
    with pytest.raises(ModelError, match=r"An encoder writes no next token.*objective predict or embed.*choose a decoder") as caught:
        made(tiny_encoder, "bert", "ForMaskedLM").head()
    assert caught.value.code == "no_next_token"


def test_a_checkpoints_own_head_answers_and_lends_itself(tiny_encoder: Make) -> None:
    model = made(
        tiny_encoder,
        "bert",
        "ForSequenceClassification",
        id2label={0: "bad", 1: "good", 2: "odd"},
        label2id={"bad": 0, "good": 1, "odd": 2},
    )
    assert model.predictor.meaning == Meaning("class", ("bad", "good", "odd"))
    outputs = model.predictor(model.summary(model.states(**end_to_end(ROWS))[[0, 10, 22, 25]]))
    twin = plain(model)
    for row, found in zip(ROWS, outputs, strict=True):
        torch.testing.assert_close(found, twin(torch.tensor([row]), **types_of(model, row)).logits[0], rtol=1e-4, atol=1e-5)
    new = Predictor(32, Meaning("class", ("fine", "good", "bad")), seed=1)
    told = new.begin_as(model.predictor)
    assert (
        told
        == "The head begins as the base's own for 2 labels, new are fine; the rows do not have odd, which the tuned model will not say."
    )
    assert torch.equal(new.weight[[2, 1]], model.predictor.weight[[0, 1]])
    other = Predictor(32, Meaning("number"), seed=1)
    assert other.begin_as(model.predictor) == "The base's own head (class: bad, good, odd) is not used: the rows ask for another (number)."


def test_a_number_begins_on_another_scale() -> None:
    theirs, mine = (
        Predictor(32, Meaning("number", centre=2.0, scale=3.0), seed=0),
        Predictor(32, Meaning("number", centre=-1.0, scale=0.5), seed=1),
    )
    assert mine.begin_as(theirs) == "The head begins as the base's own."
    states = torch.randn(4, 32)
    assert mine.read(mine(states)) == pytest.approx(theirs.read(theirs(states)), rel=1e-4)


@pytest.mark.parametrize(
    ("meaning", "said"),
    [
        (Meaning("class", ("a", "b", "c", "d"), temperature=2.0), "single_label_classification"),
        (Meaning("labels", ("a", "b")), "multi_label_classification"),
        (Meaning("ordinal", ("low", "mid", "high")), "multi_label_classification"),
        (Meaning("number", centre=2.0, scale=3.0), "regression"),
    ],
    ids=lambda value: value.kind if isinstance(value, Meaning) else "",
)
@pytest.mark.parametrize("kind", TYPES)
def test_other_software_hears_what_the_tuned_head_says(kind: str, meaning: Meaning, said: str, tiny_encoder: Make, tmp_path: Path) -> None:
    """A head of other labels takes the place of the checkpoint's own, in transformers' layout and in ours."""
    model = made(tiny_encoder, kind, "ForSequenceClassification", num_labels=3)
    model.predictor = Predictor(32, meaning, seed=7)
    save(model, tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.predictor.meaning == meaning
    outputs = again.predictor(again.summary(again.states(**end_to_end(ROWS[:1]))[:1]))
    wanted = theirs(torch.tensor(ROWS[:1])).logits
    ours = torch.tensor([again.predictor.read(outputs)]) if meaning.kind == "number" else outputs / meaning.temperature
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert theirs.config.problem_type == said
    if meaning.kind == "class":
        assert list(theirs.config.id2label.values()) == ["a", "b", "c", "d"]


def test_a_head_on_words_is_not_written_over_one_on_rows(tiny_encoder: Make, tmp_path: Path) -> None:
    model = made(tiny_encoder, "bert", "ForTokenClassification", num_labels=3)
    model.predictor = Predictor(32, Meaning("class", ("a", "b")), seed=7)
    save(model, tmp_path / "model")
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.network.classifier.out_features == 3
    assert again.predictor.meaning.labels == ("a", "b")
