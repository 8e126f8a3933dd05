"""Models that see: rows of words and pictures, rendered, packed and learned as plain transformers computes them."""

from __future__ import annotations

import base64
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
from luthier.core.example import MARK, Example, Message
from luthier.core.sequence import Pictured, Sequence
from luthier.core.spec import DataSpec, TrainSpec
from luthier.data.pictures import pixels
from luthier.data.read import read
from luthier.data.said import Answers, answer
from luthier.data.tokenise import tokenise
from luthier.data.too_long import fit
from luthier.engine.ahead import planned
from luthier.engine.score import score
from luthier.engine.session import Session
from luthier.inference.generate import generate
from luthier.inference.stream import stream
from luthier.methods import freeze, full, lora, prompt
from luthier.models.families import family_of, vision_language
from luthier.models.load import load, save
from luthier.objectives import embed, sft
from tiny_families import LLAVA, PARTS, TOWER, tiny

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)
WORDS = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def made(*, template: str = PARTS, seed: int = 0, **changes: Any) -> Any:
        return tiny(LLAVA | changes, tmp_path_factory.mktemp("llava"), seed=seed, template=template)

    return made


def drawn(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (14, 18, 3), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Rows of OpenAI's shape and of LLaMA-Factory's: pictures before, among and between words, none, and two turns."""
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(drawn(seed))
    address = "data:image/png;base64," + base64.b64encode(drawn(7)).decode()

    def part(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}

    def text(words: str) -> dict[str, Any]:
        return {"type": "text", "text": words}

    def said(words: str) -> dict[str, Any]:
        return {"role": "assistant", "content": words}

    rows = [
        {"messages": [{"role": "user", "content": [part("0.png"), text("What?")]}, {"role": "assistant", "content": "A."}]},
        {
            "messages": [
                {"role": "user", "content": [text("See "), part(address), text(" and "), part("1.png")]},
                {"role": "assistant", "content": "B."},
            ]
        },
        {"messages": [{"role": "user", "content": "No picture, the same."}, {"role": "assistant", "content": "C."}]},
        {"messages": [{"role": "user", "content": "No picture, the same."}, {"role": "assistant", "content": "Cc."}]},
        {
            "messages": [
                {"role": "user", "content": "<image>Who?"},
                {"role": "assistant", "content": "Kane."},
                {"role": "user", "content": "And<image>?"},
                {"role": "assistant", "content": "He."},
            ],
            "images": ["0.png", "2.png"],
        },
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "rows.jsonl"


def examples(file: Path) -> list[Example]:
    found = list(read(file))
    assert all(isinstance(each, Example) for each in found), found
    return found  # type: ignore[return-value]


def table(model: Any, file: Path) -> Any:
    rows = examples(file)
    return tokenise(rows, renderer=model.renderer, data=DataSpec(), context=model.context, cache=file.parent / "cache", key="k")


def twin(model: Any) -> Any:
    """The same network as transformers runs it."""
    plain = transformers.LlavaForConditionalGeneration._from_config(
        copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32
    ).eval()
    plain.load_state_dict(model.network.state_dict())
    return plain


def plain_loss(plain: Any, sequence: Sequence, model: Any) -> torch.Tensor:
    """Of one path, all by itself."""
    tokens = torch.tensor(sequence.tokens).long()[None]
    seen = [pixels(Path(reference.split(":", 2)[2]).read_bytes(), model.renderer.eyes.plan) for reference in sequence.media]
    pictures = {"pixel_values": torch.from_numpy(np.stack(seen))} if seen else {}
    logprobs = plain(input_ids=tokens, **pictures).logits[0, :-1].log_softmax(-1)
    return -(torch.tensor(sequence.weights[1:]) * logprobs.gather(1, tokens[0, 1:, None]).squeeze(1)).sum()


@pytest.mark.parametrize("budget", [60, 10_000])
@pytest.mark.parametrize("tower", ["clip_vision_model", "siglip_vision_model"])
def test_loss_and_gradients_equal_transformers(tower: str, budget: int, make: Callable[..., Any], file: Path) -> None:
    """Language model, projector and tower, all moving; rows with and without pictures in one pack."""
    clip = tower == "clip_vision_model"
    model = make(
        vision_config={"model_type": tower, **TOWER} | ({"projection_dim": 16} if clip else {}),
        vision_feature_select_strategy="default" if clip else "full",
    )
    rows = list(table(model, file))
    plain = twin(model)
    paths = [path for row in rows for path in row.sequences]
    wanted = torch.stack([plain_loss(plain, path, model) for path in paths]).sum() / sum(float(path.weights.sum()) for path in paths)
    wanted.backward()
    method = full.Method()
    method.attach(model)
    session = Session(model, method, sft.Objective(), rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = session.gradient(planned(rows, budget))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    mine = dict(model.network.named_parameters())
    moved = {name.split(".")[1] for name, p in plain.named_parameters() if p.grad is not None}
    assert moved >= {"language_model", "multi_modal_projector", "vision_tower"}
    for name, p in plain.named_parameters():
        if p.grad is not None:
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-8, name


@pytest.mark.parametrize("template", [PARTS, WORDS], ids=["parts", "words"])
def test_pictures_stand_where_the_row_has_them_and_are_not_learned(template: str, make: Callable[..., Any], file: Path) -> None:
    """Templates that take parts, and templates that take words alone, give the same tokens."""
    model = make(template=template)
    assert (model.renderer.eyes.count, model.renderer.script.shape.parts) == (9, template == PARTS)
    shown = [model.renderer.decode(row.sequences[0].tokens).replace("<image>" * 9, "[]") for row in table(model, file)]
    assert shown == [
        "user: []What?<end>assistant: A.<end>",
        "user: See [] and []<end>assistant: B.<end>",
        "user: No picture, the same.<end>assistant: C.<end>",
        "user: No picture, the same.<end>assistant: Cc.<end>",
        "user: []Who?<end>assistant: Kane.<end>user: And[]?<end>assistant: He.<end>",
    ]
    for row in table(model, file):
        (sequence,) = row.sequences
        assert not sequence.weights[sequence.tokens == 1].any()
        assert len(sequence.media) == (sequence.tokens == 1).sum() // 9
        assert sequence.apart == bool(sequence.media)
    (everything,) = model.renderer.render(examples(file)[0], learn="everything")
    assert (everything.weights[1:] == (everything.tokens[1:] != 1)).all()


def test_rows_of_words_still_share_their_beginnings(make: Callable[..., Any], file: Path) -> None:
    model = make()
    rows = list(table(model, file))
    (pack,) = planned(rows, 10_000).packs
    lengths = [len(row.sequences[0].tokens) for row in rows]
    shared = len("user: No picture, the same.<end>assistant: C") - len("<end>") + 1
    assert len(pack.tokens_T) == sum(lengths) - shared
    assert len(pack.media) == 5


PICTURES = [2, 1, 1, 2, 1, 1]
"""Of the six rows of the demo."""


def test_the_demo_of_llama_factory(shared: Path, make: Callable[..., Any]) -> None:
    model = make()
    found = examples(shared / "data/ft_llamafactory/mllm_demo.json")
    assert [sum(len(message.media) for message in example.messages) for example in found] == PICTURES
    for example in found:
        (sequence,) = model.renderer.render(example)
        assert len(sequence.media) == sum(len(message.media) for message in example.messages) > 0


def test_answers_to_pictures_equal_transformers(make: Callable[..., Any], file: Path) -> None:
    """Several pictures and texts answered in one batch, greedily; another picture gives another score."""
    model = make(seed=3)
    with torch.no_grad():
        for p in model.network.parameters():
            p.mul_(4)  # answers that depend on what is seen
    plain = twin(model)
    asked = [model.renderer.prompt_of(example) for example in examples(file)]
    found = generate(model, asked, max_tokens=8)
    for question, generation in zip(asked, found, strict=True):
        media = question.media if isinstance(question, Pictured) else ()
        seen = [pixels(Path(each.split(":", 2)[2]).read_bytes(), model.renderer.eyes.plan) for each in media]
        pictures = {"pixel_values": torch.from_numpy(np.stack(seen))} if seen else {}
        ids = torch.tensor([list(question)])
        settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 319, "pad_token_id": 0}
        wanted = plain.generate(ids, attention_mask=torch.ones_like(ids), **settings, **pictures)
        assert generation.tokens == wanted[0, ids.shape[1] :].tolist()
    (row, *_) = table(model, file)
    (sequence,) = row.sequences
    other = Sequence(sequence.tokens, sequence.weights, apart=True, media=table(model, file)[4].sequences[0].media[1:])
    assert score(model, [sequence])[0].total != pytest.approx(score(model, [other])[0].total, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_token_of_a_picture_is_never_written(temperature: float, make: Callable[..., Any], file: Path) -> None:
    """However likely: there would be no picture to see behind it."""
    model = make()
    asked = [model.renderer.prompt_of(example) for example in examples(file)]
    before = generate(model, asked, max_tokens=6, temperature=temperature)
    with torch.no_grad():
        states = model.head().weight
        states[1] = 50 * states[before[0].tokens[0]]  # so likely as nothing else
    found = generate(model, asked, max_tokens=6, temperature=temperature)
    assert all(1 not in each.tokens for each in found)
    spoken = "".join(stream(model, asked[2], max_tokens=6, temperature=temperature))
    assert "<image>" not in spoken


def test_lora_stands_beside_the_language_model(make: Callable[..., Any], file: Path) -> None:
    model = make()
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=0)
    rows = list(table(model, file))
    session = Session(model, method, sft.Objective(), rows=rows, train=TRAIN.model_copy(update={"epochs": 60, "learning_rate": 3e-2}))
    losses = [session.advance().loss for _ in range(session.steps)]
    assert losses[-1] < 0.95 * losses[0]
    assert all(name.startswith("model.language_model.layers") for name in model.linears())


@pytest.mark.parametrize(
    ("options", "moving"),
    [
        ({}, {"language_model", "lm_head"}),
        ({"frozen": ["model.vision_tower.*"]}, {"language_model", "lm_head", "multi_modal_projector"}),
        ({"frozen": [], "moving": ["model.multi_modal_projector.*"]}, {"multi_modal_projector"}),
    ],
    ids=["last blocks", "all but the tower", "projector alone"],
)
def test_tower_and_projector_move_by_choice(options: dict[str, Any], moving: set[str], make: Callable[..., Any], file: Path) -> None:
    model = make()
    method = freeze.Method(freeze.Options(**options))
    method.attach(model)
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    session = Session(model, method, sft.Objective(), rows=list(table(model, file)), train=TRAIN)
    session.advance()
    changed = {name for name, p in model.network.named_parameters() if not torch.equal(p, before[name])}
    assert {name.removeprefix("model.").split(".")[0] for name in changed} == moving


def test_what_is_learned_before_a_row_stands_before_its_pictures(make: Callable[..., Any], file: Path) -> None:
    """Prompt tuning: the vectors, then the embedded row with its pictures, as transformers computes it."""
    model = make()
    plain = twin(model)
    method = prompt.Method(prompt.Options(tokens=3))
    method.attach(model)
    sequence = table(model, file)[0].sequences[0]
    (picture,) = sequence.media
    pixel = torch.from_numpy(pixels(Path(picture.split(":", 2)[2]).read_bytes(), model.renderer.eyes.plan))[None]
    tokens = torch.tensor(sequence.tokens).long()
    with torch.no_grad():
        embedded = plain.get_input_embeddings()(tokens)
        embedded[tokens == 1] = torch.cat(list(plain.model.get_image_features(pixel_values=pixel).pooler_output))
        led = torch.cat([method.state(model)["prompt_embeddings"], embedded])[None]
        states = plain.model.language_model(inputs_embeds=led).last_hidden_state[0, 3:-1]
        logprobs = plain.lm_head(states).log_softmax(-1).gather(1, tokens[1:, None]).squeeze(1)
    wanted = (torch.tensor(sequence.weights[1:]) * logprobs).sum().item()
    assert score(model, [sequence])[0].total == pytest.approx(wanted, rel=1e-4)


def test_saved_is_loaded_again_by_us_and_by_transformers(make: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    model = make()
    save(model, tmp_path / "model")
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.family is family_of("llava") is vision_language
    assert again.renderer.fingerprint == model.renderer.fingerprint
    (first, *_) = (row.sequences[0] for row in table(again, file))
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    with torch.no_grad():
        assert -score(again, [first])[0].total == pytest.approx(plain_loss(theirs, first, again).item(), rel=1e-4)


def test_pictures_that_are_not_given_along_are_missed(make: Callable[..., Any], file: Path) -> None:
    model = make()
    with pytest.raises(ModelError, match="pictures among the words, but they were not given along"):
        generate(model, [list(model.renderer.prompt_of(examples(file)[0]))], max_tokens=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"text_config": {"model_type": "mamba"}}, "A part of the kind 'mamba' inside a llava is not computed"),
        (
            {"vision_config": LLAVA["vision_config"] | {"image_size": 16}},
            "Pictures are made 12 x 12, the tower clip_vision_model reads 16 x 16",
        ),
        ({"image_token_index": 40}, "The token of a picture, 40, is none of the tokenizer's added tokens"),
    ],
)
def test_what_would_be_wrong_is_refused(changes: dict[str, Any], text: str, make: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=text):
        make(**changes)


def test_words_that_look_like_a_picture_and_pictures_no_template_shows(make: Callable[..., Any], file: Path) -> None:
    row = file.parent / "odd.jsonl"
    row.write_text(json.dumps({"messages": [{"role": "user", "content": "Say <image> to me."}, {"role": "assistant", "content": "No."}]}))
    with pytest.raises(DataError, match="has 0 pictures up to here, but what the model would read holds 1") as caught:
        make().renderer.render(examples(row)[0])
    assert caught.value.code == "unrendered"
    blind = PARTS.replace("{{ '<image>' }}", "")
    with pytest.raises(DataError, match="has 1 pictures up to here, but what the model would read holds 0"):
        make(template=blind).renderer.render(examples(file)[0])


def test_a_row_with_pictures_is_not_cut(make: Callable[..., Any], file: Path) -> None:
    renderer, example = make().renderer, examples(file)[0]
    sequences = renderer.render(example)
    assert fit(renderer, example, sequences, learn="answers", context=20, policy="drop").sequences == []
    for policy in ("split", "cut_prompt"):
        with pytest.raises(DataError, match="a row with pictures cannot be made to fit"):
            fit(renderer, example, sequences, learn="answers", context=20, policy=policy)


def test_pictures_of_a_row_and_marks_in_its_words_must_agree(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(drawn(0))
    turns = [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "A."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": turns, "images": ["0.png", "0.png"]}]))
    (problem,) = list(read(tmp_path / "rows.json"))
    assert (problem.code, problem.field) == ("picture_count", "images")  # type: ignore[union-attr]


def test_rows_keep_their_pictures_in_a_pair(make: Callable[..., Any], file: Path) -> None:
    model, example = make(), examples(file)[0]
    chosen, rejected = ([Message("assistant", words)] for words in ("A.", "B."))
    pair = Example(example.source, "preference", example.messages[:1], chosen=chosen, rejected=rejected)
    better, worse = model.renderer.render(pair)
    assert better.media == worse.media != ()


def test_scores_of_words_alone_equal_the_language_model(make: Callable[..., Any]) -> None:
    model = make()
    tokens = torch.tensor([[40, 41, 42, 43]])
    plain = twin(model)
    with torch.no_grad():
        wanted = F.log_softmax(plain(input_ids=tokens).logits[0, :-1], -1).gather(1, tokens[0, 1:, None]).sum()
    found = score(model, [Sequence(tokens[0].numpy().astype(np.int32), np.array([0, 1, 1, 1], np.float32))])[0].total
    assert found == pytest.approx(wanted.item(), rel=1e-5)


def test_dropout_is_off_in_every_part(make: Callable[..., Any]) -> None:
    parts = {part: LLAVA[part] | {"attention_dropout": 0.3} for part in ("text_config", "vision_config")}
    model = make(**parts)
    assert model.config.text_config.attention_dropout == model.config.vision_config.attention_dropout == 0


@pytest.mark.parametrize("budget", [60, 10_000])
def test_embeddings_are_of_words_and_pictures(budget: int, make: Callable[..., Any], file: Path) -> None:
    """Loss and gradients of the whole step equal the formula over transformers' states, those of pictures among them."""
    model, objective = make(), embed.Objective(embed.Options(temperature=0.3))
    plain = twin(model)
    method = full.Method()
    method.attach(model)

    def vector(text: str, media: tuple[str, ...]) -> torch.Tensor:
        ids = torch.tensor(model.renderer.encode(text.replace(MARK, "<image>" * 9)))[None]
        seen = [pixels(Path(each.split(":", 2)[2]).read_bytes(), model.renderer.eyes.plan) for each in media]
        pictures = {"pixel_values": torch.from_numpy(np.stack(seen))} if seen else {}
        return F.normalize(plain.model(input_ids=ids, **pictures).last_hidden_state[0].mean(0), dim=-1)

    said = [answer(example) for example in examples(file)]
    assert [[len(media) for media in each.media] for each in said] == [[1, 0, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    anchors, positives = (
        torch.stack([vector(*each) for each in texts]) for texts in zip(*[((s.asked, s.media[0]), (s.text, ())) for s in said], strict=True)
    )
    wanted = F.cross_entropy(anchors @ positives.T / 0.3, torch.arange(len(said)))
    wanted.backward()
    rows = list(objective.lay(table(model, file), model.renderer, Answers()))
    session = Session(model, method, objective, rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = session.gradient(session._planned(rows, budget))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    mine = dict(model.network.named_parameters())
    assert plain.model.vision_tower.get_parameter("encoder.layers.0.mlp.fc1.weight").grad is not None
    for name, p in plain.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-8:
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-8, name
