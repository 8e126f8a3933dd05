"""Sounds: from the bytes of a WAV file to the numbers a network hears.

    bytes  ->  samples of one channel, -1 to 1  ->  as many a second as the network hears  ->  loudness of each pitch, frame by frame

WAV files are read by Python's own `wave`, resampled by scipy's polyphase filter. What comes out equals what transformers' own feature
extractors make of the samples (``tests/data/test_sounds.py``).

S samples, F frames, B pitches (mel bins).
"""

from __future__ import annotations

import io
import math
import wave
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, ModelError

MOST_SECONDS = 3600
"""A file may be so long; what a network hears of it is far less."""

USUAL_RATE = 16_000
"""Samples a second that nearly all networks hear."""

FRAME, HOP = 400, 160
"""Samples of a frame, and from one to the next: 25 and 10 ms at 16,000 a second, as every network here has them."""

EXTRACTORS = {"WhisperFeatureExtractor": "whisper", "ASTFeatureExtractor": "ast"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How sounds are heard.

    Attributes:
        kind: whose way of hearing. rate: samples a second. bins: B. frames: F; what is longer is cut, what is shorter filled with silence.
        mean, std: of the loudness, where it is shifted by them.
    """

    kind: str
    rate: int
    bins: int
    frames: int
    mean: float = 0.0
    std: float = 0.5


def plan_of(content: dict[str, Any], *, where: str = "") -> Plan:
    """Read a ``preprocessor_config.json``.

    Raises:
        ModelError: it names an extractor that is not computed, or other frames.
    """
    name = str(content.get("feature_extractor_type") or "no extractor")
    kind, rate = EXTRACTORS.get(name, ""), int(content.get("sampling_rate", USUAL_RATE))
    if not kind or content.get("hop_length", HOP) != HOP or content.get("n_fft", FRAME) != FRAME:
        raise ModelError(
            f"preprocessor_config.json cannot be followed: it names {name}, or other frames than {FRAME} samples every {HOP}.",
            where=where,
            remedy=f"Extractors that are computed: {', '.join(EXTRACTORS)}.",
            code="preprocessor",
        )
    if kind == "whisper":
        return Plan(kind, rate, int(content.get("feature_size", 80)), int(content.get("chunk_length", 30)) * rate // HOP)
    shifted = bool(content.get("do_normalize", True))
    mean, std = (float(content.get("mean", -4.2677393)), float(content.get("std", 4.5689974))) if shifted else (0.0, 0.5)
    return Plan(kind, rate, int(content.get("num_mel_bins", 128)), int(content.get("max_length", 1024)), mean, std)


def look(content: bytes) -> tuple[int, float]:
    """Samples a second, and seconds, of a file that decodes to its end.

    Raises:
        DataError: it does not, is empty, or longer than `MOST_SECONDS`; without a place.
    """
    samples, rate = decode(content)
    return rate, len(samples) / rate


def decode(content: bytes) -> tuple[NDArray[np.float32], int]:
    """Samples ``[S]`` from -1 to 1, channels averaged, and how many are a second. Raises as `look`."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            rate, width, channels, count = file.getframerate(), file.getsampwidth(), file.getnchannels(), file.getnframes()
            if not rate or count > MOST_SECONDS * rate:
                raise _bad(f"It is longer than {MOST_SECONDS} seconds, or says no rate.", "Cut it into pieces.")
            raw = file.readframes(count)
    except (wave.Error, EOFError, ValueError, ZeroDivisionError) as error:
        raise _bad(f"This is no WAV file of plain samples: {error}.", "Convert it to 16-bit PCM WAV, or correct the path.") from error
    if not raw or len(raw) < count * width * channels:
        raise _bad("The file ends before its samples do.", "Save it again, or leave the row out.")
    if width == 1:
        whole = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    elif width == 3:
        whole = _of_three(np.frombuffer(raw, np.uint8))
    else:
        whole = np.frombuffer(raw, "<i2" if width == 2 else "<i4").astype(np.float64) / (1 << (8 * width - 1))
    return np.asarray(whole.reshape(-1, channels).mean(1), np.float32), rate


def features(content: bytes, plan: Plan) -> NDArray[np.float32]:
    """A sound as a network hears it: ``[B, F]`` for Whisper, ``[F, B]`` for AST. Raises as `look`."""
    samples, rate = decode(content)
    samples = resampled(samples, rate, plan.rate)
    return _whisper(samples, plan) if plan.kind == "whisper" else _ast(samples, plan)


def resampled(samples_S: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """The same sound at another rate, by a polyphase filter."""
    if rate == wanted:
        return samples_S
    from scipy.signal import resample_poly  # here: it takes longer to import than most files to read

    common = math.gcd(rate, wanted)
    return np.asarray(resample_poly(samples_S.astype(np.float64), wanted // common, rate // common), np.float32)


def _whisper(samples_S: NDArray[np.float32], plan: Plan) -> NDArray[np.float32]:
    """Loudness in tens, 8 at most below the loudest, over frames centred on every hop (arXiv 2212.04356, section 2.2)."""
    length = plan.frames * HOP
    filled = np.pad(samples_S[:length], (0, max(0, length - len(samples_S))))
    frames_FN = _framed(np.pad(filled, FRAME // 2, mode="reflect").astype(np.float64))[:-1] * np.hanning(FRAME + 1)[:-1]
    power_BF = _slaney(plan.bins, plan.rate).T @ (np.abs(np.fft.rfft(frames_FN)) ** 2).T
    log_BF = np.log10(np.maximum(1e-10, power_BF))
    return np.asarray((np.maximum(log_BF, log_BF.max() - 8) + 4) / 4, np.float32)


def _ast(samples_S: NDArray[np.float32], plan: Plan) -> NDArray[np.float32]:
    """Kaldi's filter bank (arXiv 2104.01778, section 2.1): frames without their mean, high pitches raised, natural logarithm."""
    long_enough = np.pad(samples_S, (0, max(0, FRAME - len(samples_S)))).astype(np.float64)
    frames_FN = _framed(long_enough)[: plan.frames]
    frames_FN = frames_FN - frames_FN.mean(1, keepdims=True)
    before_FN = np.concatenate([frames_FN[:, :1], frames_FN[:, :-1]], axis=1)
    raised_FN = (frames_FN - 0.97 * before_FN) * np.hanning(FRAME)
    power_FB = np.abs(np.fft.rfft(raised_FN, 512)) ** 2 @ _kaldi(plan.bins, plan.rate)
    log_FB = np.log(np.maximum(np.finfo(np.float32).eps, power_FB))
    return np.asarray((np.pad(log_FB, ((0, plan.frames - len(log_FB)), (0, 0))) - plan.mean) / (2 * plan.std), np.float32)


def _framed(samples_S: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.lib.stride_tricks.sliding_window_view(samples_S, FRAME)[::HOP]


@lru_cache
def _slaney(bins: int, rate: int) -> NDArray[np.float64]:
    """Triangles of equal area over pitches that are linear to 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998); to 8 kHz."""
    step = math.log(6.4) / 27
    top = 15 + math.log(8000 / 1000) / step
    mels = np.linspace(0, top, bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    return _triangles(np.linspace(0, rate // 2, FRAME // 2 + 1), edges) * (2 / (edges[2:] - edges[:-2]))


@lru_cache
def _kaldi(bins: int, rate: int) -> NDArray[np.float64]:
    """Triangles in Kaldi's scale of pitches, 20 Hz to half the rate."""

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    return _triangles(mel(np.arange(257) * rate / 512), np.linspace(mel(20), mel(rate // 2), bins + 2))


def _triangles(points: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each triangle between three neighbouring edges, its height at each point: ``[points, edges - 2]``."""
    widths = np.diff(edges)
    slopes = edges[None, :] - points[:, None]
    return np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))


def _of_three(raw: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Samples of 24 bits."""
    parts = raw.reshape(-1, 3).astype(np.int32)
    whole = parts[:, 0] | (parts[:, 1] << 8) | (parts[:, 2] << 16)
    return np.asarray(np.where(whole >= 1 << 23, whole - (1 << 24), whole) / (1 << 23), np.float64)


def _bad(what: str, remedy: str) -> DataError:
    return DataError(what, remedy=remedy, code="bad_sound")
