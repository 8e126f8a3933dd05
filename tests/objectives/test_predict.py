"""Heads: the loss equals the formula one row at a time, what is read is what was meant, and a head is never lost."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.core.errors import DataError, ModelError, SpecError
from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.beside import Beside, observed
from luthier.engine.forest import STATE, Forest
from luthier.engine.session import Session
from luthier.methods import full, head, lora
from luthier.methods._headed import Headed
from luthier.models.predictor import Meaning, Predictor
from luthier.objectives import predict

from .conftest import WORDLESS, Known

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)
WORDS = ("red", "green", "blue", "grey")
SAID: dict[str, list[str]] = {
    "class": ["good", "bad", "mixed", "bad", "good", "bad"],
    "labels": ["a, b", '["c"]', "a\nc", "b", "a,b,c", "c"],
    "ordinal": ["1", "5", "3", "2", "4", "3"],
    "number": ["0.5", "-3", "12", "7.25", "1e1", "4"],
}


def rows_of(renderer: Any, said: list[str]) -> list[Row]:
    system = Message("system", "Say what you think of it.")
    made = []
    for i, text in enumerate(said):
        messages = [system, Message("user", f"The {WORDS[i % 4]} one, number {i}."), Message("assistant", text)]
        example = Example(Source("rows", i + 1), messages=messages)
        made.append(Row(example.source, renderer.render(example, learn="last_answer")))
    return made


def settled(rows: list[Row], renderer: Any, answers: Known | None = None, **options: Any) -> predict.Objective:
    asked = predict.Options(**options)
    found, _ = predict.Objective(asked).settle(rows, [], renderer, answers or WORDLESS)
    return predict.Objective(predict.Options(**{**asked.model_dump(), **found}))


def headed(model: Any, objective: predict.Objective, method: Any) -> Headed:
    method.attach(model, seed=0)
    assert objective.meaning is not None
    model.predictor = Predictor(32, objective.meaning, seed=5)
    return Headed(method)


@pytest.mark.parametrize(("kind", "most"), [(lora, 3e-3), (head, math.inf)])
def test_a_head_whose_states_move_takes_small_steps(tiny_model: Any, kind: Any, most: float) -> None:
    model = tiny_model()
    objective = settled(rows_of(model.renderer, SAID["class"]), model.renderer, kind="class")
    assert headed(model, objective, kind.Method()).groups(model)[-1].most == most


def naive(kind: str, z: torch.Tensor, text: str, objective: predict.Objective) -> torch.Tensor:
    """The formula of the page, for one row."""
    o, e = objective.options, objective.options.label_smoothing
    labels: Any = o.labels
    if kind == "number":
        return (z[0] - (float(text) - o.spread[0]) / o.spread[1]) ** 2 / 2  # type: ignore[operator]
    if kind == "class":
        logp = z.log_softmax(-1)
        return -(1 - e) * logp[labels.index(text)] - e / len(labels) * logp.sum()
    if kind == "labels":
        wanted = torch.tensor([float(label in text) for label in labels])
    else:
        wanted = torch.tensor([float(labels.index(text) > k) for k in range(len(labels) - 1)])
    wanted = wanted * (1 - e) + e / 2
    return -(wanted * F.logsigmoid(z) + (1 - wanted) * F.logsigmoid(-z)).sum()


@pytest.mark.parametrize("budget", [40, 100_000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", list(SAID))
def test_loss_and_gradients_equal_the_formula_row_by_row(
    tiny_model: Any, twin: Any, tiny_renderer: Any, kind: str, smoothing: float, budget: int
) -> None:
    model, rows = tiny_model(), rows_of(tiny_renderer, SAID[kind])
    objective = settled(rows, tiny_renderer, kind=kind, label_smoothing=smoothing)
    network = twin(model)
    method = headed(model, objective, full.Method())
    laid = objective.lay(rows, tiny_renderer, WORDLESS)
    engine = Session(model, method, objective, rows=laid, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(planned(list(laid), budget))
    total = torch.zeros(())
    head = Predictor(32, objective.meaning, seed=5)  # type: ignore[arg-type]
    for row, text in zip(rows, SAID[kind], strict=True):
        prompt = row.sequences[0].tokens[: np.flatnonzero(row.sequences[0].weights)[0]]
        states = network.base_model(input_ids=torch.from_numpy(prompt).long()[None]).last_hidden_state[0]
        total = total + naive(kind, head(states[-1:])[0], text, objective)
    (total / len(rows)).backward()
    assert weight == len(rows)
    assert found == pytest.approx(total.item() / len(rows), rel=1e-5)
    torch.testing.assert_close(model.predictor.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.predictor.bias.grad, head.bias.grad, rtol=1e-4, atol=1e-6)
    grads = dict(model.network.named_parameters())
    for name, p in network.base_model.named_parameters():
        torch.testing.assert_close(grads[f"model.{name}"].grad, p.grad, rtol=1e-3, atol=1e-6)


def test_balanced_classes_weigh_alike(tiny_renderer: Any) -> None:
    rows = rows_of(tiny_renderer, SAID["class"])
    objective = settled(rows, tiny_renderer, class_weights="balanced")
    weights: dict[str, float] = {}
    for row, text in zip(objective.lay(rows, tiny_renderer, WORDLESS), SAID["class"], strict=True):
        weights[text] = weights.get(text, 0) + float(row.sequences[0].weights.sum())
    assert weights == pytest.approx(dict.fromkeys(("good", "bad", "mixed"), 2.0))


def test_what_is_not_said_is_derived_and_told(tiny_renderer: Any) -> None:
    said = ["yes", "no"] * 4
    rows = rows_of(tiny_renderer, [*said, "perhaps"])
    found, told = predict.Objective().settle(rows[:8], rows[8:], tiny_renderer, WORDLESS)
    assert found == {"kind": "class", "labels": ["no", "perhaps", "yes"], "spread": [0.0, 1.0]}
    assert told == ["objective.kind class: 8 answers, 2 different", "objective.labels: 3, no, perhaps, yes"]
    numbers = [str(i * 1.5) for i in range(30)]
    found, told = predict.Objective().settle(rows_of(tiny_renderer, numbers), [], tiny_renderer, WORDLESS)  # type: ignore[arg-type]
    assert found["kind"] == "number"
    assert found["spread"] == pytest.approx([np.mean([i * 1.5 for i in range(30)]), np.std([i * 1.5 for i in range(30)])])
    order = ["10", "9", "2"]
    grades = predict.Objective(predict.Options(kind="ordinal")).settle(rows_of(tiny_renderer, order), [], tiny_renderer, WORDLESS)  # type: ignore[arg-type]
    assert grades[0]["labels"] == ["2", "9", "10"], "numbers in their order"


def test_one_label_is_nothing_to_tell_apart(tiny_renderer: Any) -> None:
    with pytest.raises(SpecError, match="nothing to tell apart: the labels are 1, yes"):
        settled(rows_of(tiny_renderer, ["yes"] * 8), tiny_renderer)


def test_an_answer_the_head_cannot_say_names_its_row(tiny_renderer: Any) -> None:
    said = ["yes", "no", "perhaps"]
    rows = rows_of(tiny_renderer, said)
    objective = settled(rows[:2], tiny_renderer)
    with pytest.raises(
        DataError, match=r"rows row 3: The answer 'perhaps' is nothing the head could say: 'perhaps' is none of the 2 labels"
    ):
        list(objective.lay(rows, tiny_renderer, WORDLESS))


READ: list[tuple[Meaning, list[list[float]], list[Any]]] = [
    (Meaning("class", ("a", "b", "c")), [[0.0, 2.0, 1.0], [3.0, 1.0, 0.0]], ["b", "a"]),
    (Meaning("labels", ("a", "b", "c")), [[1.0, -1.0, 0.1], [-1.0, -1.0, -1.0]], [["a", "c"], []]),
    (Meaning("ordinal", ("low", "mid", "high")), [[-2.0, -3.0], [2.0, -1.0], [3.0, 0.5]], ["low", "mid", "high"]),
    (Meaning("number", centre=10.0, scale=2.0), [[0.5]], [11.0]),
    (Meaning("ranking"), [[0.5]], [0.5]),
]


@pytest.mark.parametrize(("meaning", "outputs", "said"), READ, ids=lambda value: value.kind if isinstance(value, Meaning) else "")
def test_outputs_are_read_as_they_are_meant(meaning: Meaning, outputs: list[list[float]], said: list[Any]) -> None:
    predictor = Predictor(4, meaning)
    assert predictor.read(torch.tensor(outputs)) == said
    if meaning.kind in ("class", "ordinal"):
        torch.testing.assert_close(predictor.probabilities(torch.tensor(outputs)).sum(-1), torch.ones(len(outputs)))
        predictor.finish(temperature=3.0, usual="a")
        assert predictor.read(torch.tensor(outputs)) == said, "a temperature changes how sure, not what"


@pytest.mark.parametrize("kind", [full, lora], ids=["full", "lora"])
def test_a_head_comes_back_with_its_weights_and_is_missed_when_it_is_gone(
    tiny_model: Any, tiny_renderer: Any, kind: Any, tmp_path: Path
) -> None:
    model, rows = tiny_model(), rows_of(tiny_renderer, SAID["class"])
    objective = settled(rows, tiny_renderer)
    method = headed(model, objective, kind.Method())
    engine = Session(model, method, objective, rows=objective.lay(rows, tiny_renderer, WORDLESS), train=TRAIN)
    engine.advance()
    folder = tmp_path / method.folder_name
    method.save(model, folder)
    wanted = outputs(model, objective, rows)
    other = tiny_model()
    loaded = Headed.load(kind.Method, other, folder)
    assert loaded.state(other).keys() == method.state(model).keys()
    assert torch.equal(outputs(other, objective, rows), wanted)
    assert other.predictor.meaning == objective.meaning
    shutil.rmtree(folder / "predictor")
    with pytest.raises(ModelError, match="The head of this model cannot be read, and without it the weights say nothing") as caught:
        Headed.load(kind.Method, tiny_model(), folder)
    assert caught.value.code == "head_lost"


def outputs(model: Any, objective: predict.Objective, rows: list[Row]) -> torch.Tensor:
    (pack,) = planned(list(objective.lay(rows, model.renderer, WORDLESS)), 10_000).packs
    with torch.no_grad():
        return Forest(model, pack).outputs()


def test_a_damaged_or_foreign_head_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model()
    method = lora.Method()
    method.attach(model)
    model.predictor = Predictor(16, Meaning("class", ("a", "b")))
    Headed(method).save(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="reads states of width 16, tiny gives 32"):
        Headed.load(lora.Method, tiny_model(), tmp_path / "adapter")
    meaning = tmp_path / "adapter" / "predictor" / "meaning.json"
    meaning.write_text(json.dumps({**json.loads(meaning.read_text()), "labels": ["a", "b", "c"]}))
    with pytest.raises(ModelError, match=r"bias is \[2\], not \[3\]|weight is \[2, 16\], not \[3, 16\]"):
        Predictor.load(tmp_path / "adapter")


def test_state_comes_back_and_a_strangers_is_refused(tiny_model: Any, tiny_renderer: Any) -> None:
    objective = settled(rows_of(tiny_renderer, SAID["class"]), tiny_renderer)
    model, other = tiny_model(), tiny_model()
    method, again = headed(model, objective, lora.Method()), headed(other, objective, lora.Method())
    model.predictor.bias.data += 1
    again.load_state(other, {name: tensor.clone() for name, tensor in method.state(model).items()})
    assert torch.equal(other.predictor.bias, model.predictor.bias)
    with pytest.raises(ModelError, match=r"predictor\.weight does not fit"):
        again.load_state(other, {name: t for name, t in method.state(model).items() if not name.startswith("predictor")})


def test_states_that_lie_beside_the_rows_are_not_computed_again(tiny_model: Any, tiny_renderer: Any) -> None:
    """Where only the head moves: the same loss and gradient of the head, and the network is never run."""
    model, rows = tiny_model(), rows_of(tiny_renderer, SAID["class"])
    objective = settled(rows, tiny_renderer)
    model.predictor = Predictor(32, objective.meaning, seed=5)  # type: ignore[arg-type]
    laid = objective.lay(rows, tiny_renderer, WORDLESS)
    (pack,) = planned(list(laid), 10_000).packs
    wanted = objective.loss(Forest(model, pack))
    wanted.backward()
    gradient = model.predictor.weight.grad.clone()
    model.predictor.weight.grad = None
    known = Beside(laid, observed(model, laid, range(len(laid)), lambda forest: {STATE: forest.states_ND}))
    model.network = torch.nn.Linear(1, 1)  # says where numbers lie, and nothing else
    (pack,) = planned(list(known), 10_000).packs
    known = {"embedding": staticmethod(lambda _: torch.nn.Embedding(1, 32)), "summary": staticmethod(lambda _, states, words: states)}
    model.family = type("Nowhere", (), known)
    found = objective.loss(Forest(model, pack))
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(model.predictor.weight.grad, gradient)


def test_kept_states_suit_a_layer_before_the_head(tiny_encoder: Any, tiny_renderer: Any) -> None:
    """BERT's pooler computes in the network's own format."""
    model, rows = tiny_encoder(dtype="bfloat16"), rows_of(tiny_renderer, SAID["class"])
    objective = settled(rows, tiny_renderer)
    assert objective.meaning is not None
    model.predictor = Predictor(model.width, objective.meaning, seed=5)
    laid = objective.lay(rows[:1], tiny_renderer, WORDLESS)
    known = Beside(laid, observed(model, laid, [0], lambda forest: {STATE: forest.states_ND}))
    wanted, found = (objective.loss(Forest(model, planned(list(each), 10_000).packs[0])).item() for each in (laid, known))
    assert found == pytest.approx(wanted, rel=1e-2)


WORDS_OF = [["Anna", "Pavlova", "flew", "home"], ["Rain", "in", "Łódź"], ["Élan", "x"]]
TAGS_OF = ["B-PER I-PER O O", "O O B-LOC", "O O"]


def laid_as_chat(renderer: Any) -> list[Row]:
    """Rows of words and tags as their table has them."""
    return [
        Row(
            Source("rows", i + 1),
            renderer.render(Example(Source("rows", i + 1), messages=[Message("user", " ".join(words)), Message("assistant", tags)])),
        )
        for i, (words, tags) in enumerate(zip(WORDS_OF, TAGS_OF, strict=True))
    ]


@pytest.mark.parametrize("budget", [30, 100_000])
def test_tags_are_read_at_the_last_token_of_each_word(tiny_model: Any, twin: Any, tiny_renderer: Any, budget: int) -> None:
    model, answers = tiny_model(), Known(TAGS_OF, WORDS_OF)
    rows = laid_as_chat(tiny_renderer)
    objective = settled(laid_as_chat(tiny_renderer), tiny_renderer, answers)
    assert objective.options.kind == "tags"
    assert objective.options.labels == ["B-LOC", "B-PER", "I-PER", "O"]
    network = twin(model)
    method = headed(model, objective, full.Method())
    laid = objective.lay(rows, tiny_renderer, answers)
    engine = Session(model, method, objective, rows=laid, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(planned(list(laid), budget))
    assert weight == 9
    head = Predictor(32, objective.meaning, seed=5)  # type: ignore[arg-type]
    losses = []
    for words, tags in zip(WORDS_OF, TAGS_OF, strict=True):
        for count, tag in enumerate(tags.split(" "), 1):
            tokens = torch.tensor([tiny_renderer.encode(" ".join(words[:count]))])
            state = network.base_model(input_ids=tokens).last_hidden_state[0, -1:]
            losses.append(F.cross_entropy(head(state), torch.tensor([objective.options.labels.index(tag)])))
    wanted = torch.stack(losses).mean()
    wanted.backward()
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(model.predictor.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["tok_gpt2", "tok_bert"])
def test_words_end_where_published_tokenizers_end_them(shared: Path, name: str) -> None:
    """Byte-level pieces and word pieces, letters of several bytes included."""
    from luthier.data.tokenizer import Tokenizer

    file = next((shared / "data" / name).rglob("tokenizer.json"), None)
    if file is None:
        pytest.skip(f"{name} has no tokenizer.json")
    tokenizer = Tokenizer.load(file.parent)
    words = ["Anna", "Pavlova's", "Łódź", "—", "naïve", "end."]
    ids, ends = tokenizer.encode_ends(" ".join(words))
    assert ids == tokenizer.encode(" ".join(words))
    borders = np.cumsum([len(word) + 1 for word in words]) - 1
    assert set(borders.tolist()) <= set(ends)
