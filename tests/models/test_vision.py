"""The vision family against transformers' own classifiers, from the file of a picture to gradients; and a look at real digits."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example
from luthier.core.sequence import Sequence
from luthier.core.spec import DataSpec, TrainSpec
from luthier.data.pictures import pixels
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.said import Answers
from luthier.data.tokenise import tokenise
from luthier.engine.ahead import planned
from luthier.engine.forest import Forest
from luthier.engine.session import Session
from luthier.engine.tree import grove, plant
from luthier.methods import full, lora
from luthier.methods._headed import Headed
from luthier.models.families import family_of, vision
from luthier.models.load import load, save
from luthier.models.predictor import Meaning, Predictor
from luthier.objectives import predict
from tiny_families import VIT, tiny

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)
CLASSES = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassification"}
PLACES = {"vit": 17, "deit": 18}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def made(kind: str = "vit", architecture: str = "", **changes: Any) -> Any:
        config = VIT | {"model_type": kind, "architectures": [architecture or CLASSES[kind]]} | changes
        return tiny(config, tmp_path_factory.mktemp(kind))

    return made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Nine pictures of three kinds."""
    lines = []
    for n in range(9):
        rng = np.random.default_rng(n)
        shape = np.zeros((20, 24, 3), np.uint8)
        shape[:, 8 * (n % 3) : 8 * (n % 3) + 8] = 200
        Image.fromarray((shape + rng.integers(0, 50, shape.shape)).astype(np.uint8)).save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"image": f"{n}.png", "label": ["left", "middle", "right"][n % 3]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path / "rows.jsonl"


def table(model: Any, file: Path) -> Any:
    examples = [each for each in read(file) if isinstance(each, Example)]
    return tokenise(examples, renderer=model.renderer, data=DataSpec(), context=model.context, cache=file.parent / "cache", key="k")


def asked(table: Any, renderer: Any) -> predict.Objective:
    found, _ = predict.Objective(predict.Options()).settle(table, [], renderer, Answers("auto"))
    return predict.Objective(predict.Options(**found))


@pytest.mark.parametrize("budget", [40, 10_000])
@pytest.mark.parametrize("kind", CLASSES)
def test_loss_and_gradients_equal_transformers_classifier(kind: str, budget: int, make: Callable[..., Any], rows: Path) -> None:
    said = ["left", "middle", "right"]
    model = make(kind, id2label=dict(enumerate(said)), label2id={label: n for n, label in enumerate(said)})
    found = table(model, rows)
    objective = asked(found, model.renderer)
    twin: Any = type(model.network)._from_config(copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    twin.load_state_dict(model.network.state_dict())
    read_alone = [torch.from_numpy(pixels((rows.parent / f"{n}.png").read_bytes(), model.renderer.plain.plan))[None] for n in range(9)]
    wanted = torch.stack([F.cross_entropy(twin(image).logits, torch.tensor([n % 3])) for n, image in enumerate(read_alone)]).mean()
    wanted.backward()

    own, method = model.predictor, full.Method()
    method.attach(model)
    assert objective.meaning is not None
    model.predictor = Predictor(32, objective.meaning, seed=5)
    assert model.predictor.begin_as(own) == "The head begins as the base's own for 3 labels."
    laid = objective.lay(found, model.renderer, Answers("auto"))
    session = Session(model, Headed(method), objective, rows=laid, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    plan = planned(list(laid), budget)
    assert len(plan.packs) == (5 if budget == 40 else 1)
    loss, _ = session.gradient(plan)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(model.predictor.weight.grad, twin.classifier.weight.grad, rtol=1e-3, atol=1e-6)
    mine = dict(model.network.named_parameters())
    for name, p in twin.named_parameters():
        if p.grad is not None and not name.startswith("classifier"):
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-8, name


@pytest.mark.parametrize("kind", CLASSES)
def test_parts_are_found(kind: str, make: Callable[..., Any]) -> None:
    model = make(kind)
    assert model.family is family_of(kind) is vision
    assert (len(model.blocks()), model.context, model.vocabulary, model.width) == (2, PLACES[kind], 1, 32)
    linears = model.linears()
    assert len(linears) == 12
    assert all(model.network.get_submodule(path) is linear for path, linear in linears.items())
    assert vision.groups(model.blocks()[0]) == [("attention.q_proj", "attention.k_proj", "attention.v_proj")]


def test_a_forest_that_is_cut_keeps_whole_pictures(make: Callable[..., Any], rows: Path) -> None:
    model = make()
    laid = asked(found := table(model, rows), model.renderer).lay(found, model.renderer, Answers("auto"))
    (pack,) = planned(list(laid), 10_000).packs
    for tokens, kept in ((1, 1), (17, 1), (40, 2), (1000, 9)):
        part = pack.beginning(tokens)
        assert (len(part.tokens_T), len(part.media), len(part.rows_N)) == (17 * kept, kept, kept)


@pytest.mark.parametrize("method", [full.Method(), lora.Method(lora.Options(rank=4))], ids=["full", "lora"])
def test_it_learns_and_is_saved_for_others_to_load(method: Any, make: Callable[..., Any], rows: Path, tmp_path: Path) -> None:
    model = make("vit", "ViTModel")
    found = table(model, rows)
    objective = asked(found, model.renderer)
    method.attach(model, seed=0)
    model.predictor = Predictor(32, objective.meaning, seed=5)  # type: ignore[arg-type]
    train = TRAIN.model_copy(update={"epochs": 40, "learning_rate": 1e-2})
    session = Session(model, Headed(method), objective, rows=objective.lay(found, model.renderer, Answers("auto")), train=train)
    losses = [session.advance().loss for _ in range(session.steps)]
    assert losses[-1] < 0.3 * losses[0]


def test_a_tuned_head_is_read_by_transformers(make: Callable[..., Any], rows: Path, tmp_path: Path) -> None:
    model = make("vit", num_labels=2)
    model.predictor = Predictor(32, Meaning("class", ("a", "b", "c"), temperature=2.0), seed=7)
    save(model, tmp_path / "model")
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.renderer.fingerprint == model.renderer.fingerprint
    assert not (tmp_path / "model" / "tokenizer.json").exists()
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    (row, *_) = table(again, rows)
    tokens = row.sequences[0].tokens[:17]
    asked = Sequence(tokens, np.eye(17, dtype=np.float32)[1], apart=True, media=row.sequences[0].media)
    with torch.no_grad():
        ours = Forest(again, plant(grove([asked]))).outputs()
        wanted = theirs(**processor(Image.open(io.BytesIO((rows.parent / "0.png").read_bytes())), return_tensors="pt")).logits
    torch.testing.assert_close(ours / 2.0, wanted, rtol=1e-4, atol=1e-5)
    assert list(theirs.config.id2label.values()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "words", "label": "x"}, "reads one picture and nothing else, but the row has 0 pictures and the words 'words'"),
        ({"image": "0.png", "text": "words", "label": "x"}, "1 pictures and the words 'words'"),
    ],
)
def test_rows_of_words_are_refused(row: dict[str, str], text: str, make: Callable[..., Any], rows: Path) -> None:
    file = rows.parent / "others.jsonl"
    file.write_text(json.dumps(row))
    (example,) = read(file)
    assert isinstance(example, Example)
    with pytest.raises(DataError, match=text) as caught:
        make().renderer.render(example)
    assert caught.value.code == "one_picture"


def test_pictures_are_refused_by_models_of_words(rows: Path, tiny_renderer: Renderer, plain_renderer: Renderer) -> None:
    example = next(iter(read(rows)))
    for renderer in (tiny_renderer, plain_renderer):
        with pytest.raises(DataError, match="a picture or a sound, which this model does not take in") as caught:
            renderer.render(example)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.where) == ("unsupported_media", f"{rows} row 1")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architecture": "ViTForMaskedImageModeling"}, "has a head that is not read, and would be lost"),
        ({"image_size": 32}, r"makes pictures of \(16, 16\), config.json reads \(32, 32\)"),
    ],
)
def test_what_would_be_wrong_is_refused(changes: dict[str, Any], text: str, make: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=text):
        make(**changes)


def test_handwritten_digits_are_learned(make: Callable[..., Any], tmp_path: Path) -> None:
    """Real pictures (scikit-learn's digits, 8 x 8), from random weights: far more held-out ones than chance are told after seconds."""
    from sklearn.datasets import load_digits

    digits, count, lines = load_digits(), 400, []
    for n in range(count):
        Image.fromarray((digits.images[n] * 15.9).astype(np.uint8)).save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"image": f"{n}.png", "label": str(digits.target[n])}))
    (tmp_path / "digits.jsonl").write_text("\n".join(lines))
    model = make("vit", "ViTModel", hidden_size=48, intermediate_size=96)
    found = table(model, tmp_path / "digits.jsonl")
    objective, method = asked(found, model.renderer), full.Method()
    method.attach(model, seed=0)
    model.predictor = Predictor(48, objective.meaning, seed=0)  # type: ignore[arg-type]
    laid = list(objective.lay(found, model.renderer, Answers("auto")))
    train = TRAIN.model_copy(update={"epochs": 16, "rows_per_step": 32, "learning_rate": 4e-3})
    session = Session(model, Headed(method), objective, rows=laid[:300], train=train)
    for _ in range(session.steps):
        session.advance()
    model.network.eval()
    with torch.no_grad():
        (pack,) = planned(laid[300:], 100_000).packs
        said = model.predictor.read(Forest(model, pack).outputs())
    right = [label == objective.options.labels[place] for label, place in zip(said, pack.beside["target"], strict=True)]
    assert np.mean(right) > 0.4, f"{np.mean(right)}, chance is 0.1"


def test_it_writes_nothing(make: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="writes no next token") as caught:
        make().head()
    assert caught.value.code == "no_next_token"
