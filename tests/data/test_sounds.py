"""Sounds: WAV files of every width, heard as transformers' feature extractors hear them; rows that name them are checked."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from luthier.core.errors import DataError, ModelError
from luthier.core.example import MARK, Example
from luthier.core.spec import DataSpec
from luthier.data import sounds
from luthier.data.check import check
from luthier.data.read import read


def tone(seconds: float = 0.5, *, rate: int = 16_000, hertz: float = 440.0, seed: int = 0) -> np.ndarray[Any, Any]:
    time = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time) + 0.01 * np.random.default_rng(seed).standard_normal(len(time))


def wav(samples: np.ndarray[Any, Any], *, rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    sink = io.BytesIO()
    whole = np.repeat(np.round(samples * ((1 << (8 * width - 1)) - 1)).astype(np.int64), channels)
    raw = (whole + 128).astype(np.uint8).tobytes() if width == 1 else b"".join(int(x).to_bytes(width, "little", signed=True) for x in whole)
    with wave.open(sink, "wb") as file:
        file.setframerate(rate)
        file.setsampwidth(width)
        file.setnchannels(channels)
        file.writeframes(raw)
    return sink.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_gives_the_same_samples(width: int, channels: int) -> None:
    wanted = tone(0.02)
    found, rate = sounds.decode(wav(wanted, width=width, channels=channels))
    assert rate == 16_000 and found.dtype == np.float32
    assert np.abs(found - wanted).max() < (0.01 if width == 1 else 1e-4)


@pytest.mark.parametrize("seconds", [0.01, 0.7, 3.0])
def test_heard_as_whispers_extractor_hears(seconds: float) -> None:
    theirs = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    content = wav(tone(seconds))
    samples, _ = sounds.decode(content)
    found = sounds.features(content, sounds.plan_of(theirs.to_dict()))
    wanted = theirs(samples, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert found.shape == wanted.shape == (80, 200)
    assert np.abs(found - wanted).max() < 1e-3 and np.abs(found - wanted).mean() < 1e-5


@pytest.mark.parametrize("seconds", [0.03, 0.4, 3.0])
def test_heard_as_asts_extractor_hears(seconds: float) -> None:
    theirs = ASTFeatureExtractor(num_mel_bins=64, max_length=100)
    content = wav(tone(seconds))
    samples, _ = sounds.decode(content)
    found = sounds.features(content, sounds.plan_of(theirs.to_dict()))
    wanted = theirs(samples, sampling_rate=16_000, return_tensors="np").input_values[0]
    assert found.shape == wanted.shape == (100, 64)
    assert np.abs(found - wanted).max() < 1e-3


def test_another_rate_is_resampled() -> None:
    low, high = tone(0.5, rate=8_000, seed=1), tone(0.5, rate=16_000, seed=1)
    found = sounds.resampled(low.astype(np.float32), 8_000, 16_000)
    assert len(found) == len(high)
    middle = slice(1_000, -1_000)
    assert np.abs(found[middle] - high[middle]).mean() < 0.02


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no WAV file"),
        (b"ID3 an mp3", "no WAV file"),
        (wav(tone(0.1))[:-100], "ends before"),
        (wav(np.zeros(0)), "ends before"),
    ],
    ids=["empty", "mp3", "cut", "silent of all"],
)
def test_what_does_not_decode_is_refused(content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        sounds.look(content)
    assert caught.value.code == "bad_sound"


def test_an_extractor_that_is_not_computed_is_refused() -> None:
    with pytest.raises(ModelError, match="Wav2Vec2"):
        sounds.plan_of({"feature_extractor_type": "Wav2Vec2FeatureExtractor"})


def test_rows_name_sounds_in_every_shape(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(tone()))
    inside = base64.b64encode(wav(tone(seed=3))).decode()
    said = {"role": "assistant", "content": "seven"}
    part = {"type": "input_audio", "input_audio": {"data": inside, "format": "wav"}}
    shapes = {
        "labelled": [{"audio": "a.wav", "label": "seven"}, {"file_name": "a.wav", "transcription": "seven"}],
        "beside its text": [{"audio": "a.wav", "text": "seven"}],
        "openai": [{"messages": [{"role": "user", "content": [part]}, said]}],
        "llama_factory": [{"messages": [{"role": "user", "content": "<audio>"}, said], "audios": ["a.wav"]}],
    }
    for name, rows in shapes.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = list(read(tmp_path / f"{name}.jsonl"))
        assert len(found) == len(rows)
        for each in found:
            assert isinstance(each, Example), each
            assert each.messages[0].content == MARK and each.messages[-1].content == "seven"
            assert [medium.kind for medium in each.messages[0].media] == ["audio"]


def test_files_are_checked_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "low.wav").write_bytes(wav(tone(rate=8_000), rate=8_000))
    (tmp_path / "bad.wav").write_bytes(b"not a sound")
    rows = [{"audio": name, "label": "x"} for name in ("low.wav", "bad.wav", "gone.wav", "https://example.org/a.wav")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {(problem.row, problem.code, problem.severity) for problem in check(tmp_path / "rows.jsonl", data=DataSpec()).problems}
    assert found >= {(1, "resampled", "warning"), (2, "bad_sound", "error"), (3, "no_picture", "error"), (4, "remote_media", "error")}
