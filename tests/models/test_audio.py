"""Networks that hear: a transcriber and a classifier, from WAV files in rows to gradients equal to transformers'."""

from __future__ import annotations

import copy
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example
from luthier.core.sequence import Pictured
from luthier.core.spec import DataSpec, TrainSpec
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.said import Answers
from luthier.data.sounds import features
from luthier.data.tokenise import tokenise
from luthier.engine.ahead import planned
from luthier.engine.score import score
from luthier.engine.session import Session
from luthier.export import merged
from luthier.inference.generate import generate
from luthier.methods import full, lora
from luthier.methods._headed import Headed
from luthier.models.families import audio, audio_language, family_of
from luthier.models.load import load, save
from luthier.models.predictor import Predictor
from luthier.objectives import predict, sft
from tiny_families import AST, PIECES, WHISPER, tiny

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def made(config: dict[str, Any] = WHISPER, *, seed: int = 0, said: dict[str, Any] | None = None, **changes: Any) -> Any:
        return tiny(config | changes, tmp_path_factory.mktemp("hears"), seed=seed, said=said)

    return made


@pytest.fixture
def rows(tmp_path: Path) -> list[Example]:
    """Four sounds, low and high, the second of them twice as short."""
    lines = []
    for number, (hertz, label) in enumerate([(220, "low"), (1760, "high"), (180, "low"), (2000, "high")]):
        samples = np.sin(2 * np.pi * hertz * np.arange(8_000 // (1 + number % 2)) / 16_000)
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setframerate(16_000)
            file.setsampwidth(2)
            file.setnchannels(1)
            file.writeframes((20_000 * samples).astype("<i2").tobytes())
        lines.append({"audio": f"{number}.wav", "label": label})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return list(read(tmp_path / "rows.jsonl"))  # type: ignore[arg-type]


def table(model: Any, rows: list[Example], folder: Path) -> Any:
    return tokenise(rows, renderer=model.renderer, data=DataSpec(), context=model.context, cache=folder / "cache", key="k")


def heard(model: Any, reference: str) -> torch.Tensor:
    return torch.from_numpy(features(Path(reference.split(":", 2)[2]).read_bytes(), model.renderer.plain.plan))


def twin(model: Any, kind: Any) -> Any:
    """The same network as transformers runs it."""
    plain = kind._from_config(copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    plain.load_state_dict(model.network.state_dict())
    return plain


def plain_loss(plain: Any, sequence: Any, model: Any) -> torch.Tensor:
    """Of one row, all by itself: only what stands behind the tokens a transcript begins with counts."""
    tokens = torch.tensor(sequence.tokens).long()[50:]
    sound = heard(model, sequence.media[0])[None]
    logits = plain(input_features=sound, decoder_input_ids=tokens[None, :-1]).logits[0]
    return F.cross_entropy(logits[3:], tokens[4:], reduction="sum")


def test_a_row_is_places_a_beginning_and_the_transcript(make: Callable[..., Any], rows: list[Example], tmp_path: Path) -> None:
    model = make()
    (path,) = table(model, rows, tmp_path)[0].sequences
    assert path.tokens[:50].tolist() == [0] * 50 and path.apart
    assert model.renderer.decode(path.tokens.tolist()) == "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>low<|endoftext|>"
    assert path.weights.tolist() == [0.0] * 54 + [1.0] * 4
    asked = model.renderer.prompt_of(rows[0])
    assert isinstance(asked, Pictured) and list(asked) == path.tokens[:54].tolist() and asked.media == path.media
    german = make(said={"language": "<|de|>", "is_multilingual": True})
    assert german.renderer.prompt_of(rows[0])[51] == PIECES["whisper"].index("<|de|>")
    english = make(said={"is_multilingual": False})
    assert list(english.renderer.prompt_of(rows[0])[50:]) == [2, 6]


@pytest.mark.parametrize("budget", [70, 10_000])
def test_a_transcribers_loss_and_gradients_equal_transformers(
    budget: int, make: Callable[..., Any], rows: list[Example], tmp_path: Path
) -> None:
    model = make()
    plain = twin(model, transformers.WhisperForConditionalGeneration)
    asked = list(table(model, rows, tmp_path))
    wanted = torch.stack([plain_loss(plain, row.sequences[0], model) for row in asked]).sum()
    wanted = wanted / sum(float(row.sequences[0].weights.sum()) for row in asked)
    wanted.backward()
    method = full.Method()
    method.attach(model)
    session = Session(model, method, sft.Objective(), rows=asked, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = session.gradient(planned(asked, budget))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    mine, seen = dict(model.network.named_parameters()), set()
    for name, p in plain.named_parameters():
        if p.grad is not None:
            seen.add(name.split(".")[1])
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-7, name
    assert seen == {"encoder", "decoder"}


def test_transcripts_equal_transformers(make: Callable[..., Any], rows: list[Example]) -> None:
    model = make(seed=5)
    with torch.no_grad():
        for p in model.network.parameters():
            p.mul_(3)  # answers that depend on what is heard
    plain = twin(model, transformers.WhisperForConditionalGeneration)
    asked = [model.renderer.prompt_of(row) for row in rows]
    found = generate(model, asked, max_tokens=6)
    for prompt, generation in zip(asked, found, strict=True):
        said = list(prompt[50:])
        for token in generation.tokens:  # transformers' own loop suppresses tokens; its network does not
            logits = plain(input_features=heard(model, prompt.media[0])[None], decoder_input_ids=torch.tensor([said])).logits[0, -1]
            assert int(logits.argmax()) == token
            said.append(token)


def test_lora_on_a_transcriber_learns_and_merges(make: Callable[..., Any], rows: list[Example], tmp_path: Path) -> None:
    base = make()
    with torch.no_grad():
        for p in base.network.parameters():
            p.mul_(3)  # an adapter beside weights of 0.02 moves too little to be seen
    save(base, tmp_path / "base")
    model = load(str(tmp_path / "base"), dtype="float32")
    assert model.family is family_of("whisper") is audio_language
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=0)
    asked = list(table(model, rows, tmp_path))
    session = Session(model, method, sft.Objective(), rows=asked, train=TRAIN.model_copy(update={"epochs": 60, "learning_rate": 3e-2}))
    losses = [session.advance().loss for _ in range(session.steps)]
    assert losses[-1] < 0.7 * losses[0]
    tuned = score(model, [row.sequences[0] for row in asked])
    merged.export(model, method, tmp_path / "merged")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    with torch.no_grad():
        for row, mine in zip(asked, tuned, strict=True):
            assert -mine.total == pytest.approx(plain_loss(theirs, row.sequences[0], model).item(), rel=1e-3, abs=1e-4)
    assert Renderer.from_folder(tmp_path / "merged").fingerprint == model.renderer.fingerprint


def test_a_classifier_equals_transformers(make: Callable[..., Any], rows: list[Example], tmp_path: Path) -> None:
    """Outputs of the checkpoint's own head, and gradients of every weight."""
    model = make(AST)
    assert model.family is family_of("audio-spectrogram-transformer") is audio
    plain = twin(model, transformers.ASTForAudioClassification)
    asked = list(table(model, rows, tmp_path))
    sounds = torch.stack([heard(model, row.sequences[0].media[0]) for row in asked])
    logits = plain(input_values=sounds).logits
    wanted = F.cross_entropy(logits, torch.tensor([0, 1, 0, 1]))
    wanted.backward()
    own, method = model.predictor, full.Method()
    method.attach(model)
    objective = predict.Objective(predict.Options(kind="class", labels=["low", "high"], spread=[0.0, 1.0]))
    laid = objective.lay(asked, model.renderer, Answers("auto"))
    assert objective.meaning is not None
    model.predictor = Predictor(32, objective.meaning, seed=5)
    assert "head begins as the base's own" in model.predictor.begin_as(own)
    session = Session(model, Headed(method), objective, rows=laid, train=TRAIN)
    found, _ = session.gradient(planned(list(laid), 10_000))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(model.predictor.weight.grad, plain.classifier.dense.weight.grad, rtol=1e-3, atol=1e-6)
    mine = dict(model.network.named_parameters())
    for name, p in plain.named_parameters():
        if not name.startswith("classifier.dense"):
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-7, name


def test_what_is_not_one_sound_is_refused(make: Callable[..., Any], rows: list[Example], tiny_model: Callable[..., Any]) -> None:
    for model in (make(), make(AST)):
        rows[0].messages[0].content += " and words"
        with pytest.raises(DataError, match="hears one sound and nothing else"):
            model.renderer.render(rows[0])
    with pytest.raises(DataError, match="picture or a sound, which this model does not take in"):
        tiny_model().renderer.render(rows[1])
    with pytest.raises(ModelError, match="Sounds were not given along"):
        score(make(), [type(s)(s.tokens, s.weights) for s in make().renderer.render(rows[1])])
    with pytest.raises(ModelError, match="does not transcribe"):
        make(architectures=["WhisperForAudioClassification"])
