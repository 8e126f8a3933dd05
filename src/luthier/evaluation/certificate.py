"""The certificate: probe prompts and what the model said to them, replayed whenever the model is loaded, merged or exported.

It catches what otherwise goes unnoticed: another chat template, an adapter that is loaded but ignored, a wrong base, a broken export.

Written: each probe's prompt is rendered, and base and tuned continue it greedily for a few tokens, whose log-probabilities are kept.
Replayed: (1) the prompt is rendered again and compared id by id; (2) the certified tokens are read - not generated again, so that one near
tie does not throw all later tokens off - and each log-probability is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import __version__
from luthier.core.errors import ResultError, StorageError
from luthier.core.example import Example, Medium, Message, Source
from luthier.core.files import write_json
from luthier.core.sequence import Row, answered
from luthier.data.render import Renderer
from luthier.engine.score import score
from luthier.evaluation import certified_heads
from luthier.evaluation.questions import before_last_answer
from luthier.inference.generate import Generation, generate
from luthier.inference.sides import SIDES, Method, Sides
from luthier.models.model import Model

VERSION = 1
TOKENS = 16
"""Tokens certified per probe: with 20 probes 320 log-probabilities, read in a second or two."""

TEXT_PROMPT = 32
"""Tokens a plain-text probe begins with, where there is no question to answer."""

TOLERANCE = {"float32": (1e-4, 1e-2), "bfloat16": (0.05, 1.0)}
"""Largest mean and largest single distance of log-probabilities, in nats, by number format.

bfloat16 keeps 8 significant bits, so one rounding of a logit of 10-30 is 0.03-0.06 nats; another batch shape, processor, or a merge (which
rounds W + BA once more) moves single tokens by a few of these, and unlikely ones most. Measured on stories260k with a strong adapter,
certified in float32 and replayed in bfloat16: mean 0.03, largest 0.6. float32 has 16 bits more. What must be caught - an ignored adapter,
another base - moves the mean by more than either; where a tuning moved it less, the certificate says so itself (`told_apart`)."""


@dataclass(frozen=True)
class Replay:
    """A certificate that held.

    Attributes:
        probes, tokens: how many were compared. mean, largest: distance of log-probabilities in nats.
        first_choices: share of certified tokens that still are the model's first choice.
    """

    probes: int
    tokens: int
    mean: float
    largest: float
    first_choices: float


def write(model: Model, method: Method | None, probes: list[Example], folder: Path, *, rows: Iterable[Row] = ()) -> dict[str, Any]:
    """Certify what `model` says now; ``folder/certificate.json``. Probes whose prompt fills the context are left out.

    Args:
        rows: for a model with a head, the probes as it reads them.

    Returns:
        the certificate, as written.
    """
    content = {"version": VERSION, "luthier": __version__, "dtype": _dtype(model), "renderer": model.renderer.fingerprint}
    content |= _written(model, method, probes) if model.predictor is None else _said(model, method, probes, list(rows))
    write_json(folder / "certificate.json", content)
    return content


def _said(model: Model, method: Method | None, probes: list[Example], rows: list[Row]) -> dict[str, Any]:
    """What a head says of rows; their examples are kept, too, so that another template is noticed."""
    examples = {(example.source.file, example.source.row): example for example in probes}
    chosen = [row for row in rows if (row.source.file, row.source.row) in examples]
    found = certified_heads.probes(model, method, chosen)
    for row, probe in zip(chosen, found, strict=True):
        example = examples[row.source.file, row.source.row]
        probe |= {"example": _plain(example), "prompt": prompt_of(model.renderer, example)}
    return {"head": True, "told_apart": certified_heads.told_apart(found, TOLERANCE[_dtype(model)][0]), "probes": found}


def _written(model: Model, method: Method | None, probes: list[Example]) -> dict[str, Any]:
    """What base and tuned write."""
    chosen = [probe for probe in probes if 0 < len(prompt_of(model.renderer, probe)) < model.context]
    prompts = [prompt_of(model.renderer, probe) for probe in chosen]
    said: dict[str, list[Generation]] = {}
    for side in SIDES:
        with Sides(model, method).side(side) as answering:
            said[side] = generate(answering, prompts, max_tokens=TOKENS, stop=model.renderer.end_tokens)
    return {
        "told_apart": _told_apart(said["base"], said["tuned"], _dtype(model)),
        "probes": [
            {"example": _plain(probe), "prompt": prompt, **{side: _answer(said[side][i]) for side in SIDES}}
            for i, (probe, prompt) in enumerate(zip(chosen, prompts, strict=True))
        ],
    }


def replay(model: Model, method: Method | None, folder: Path) -> Replay:
    """Hold `model` against ``folder/certificate.json``.

    Args:
        method: what it was tuned with; None for a merged model.

    Raises:
        ResultError: a prompt renders to other tokens (``template_drift``), or answers have other log-probabilities (``certificate``);
            the first differing probe and token and the largest distance are named.
        StorageError: the certificate cannot be read.
    """
    content = read(folder)
    for number, probe in enumerate(content["probes"], 1):
        _same_prompt(model.renderer, probe, number)
    if content.get("head"):
        return _replay_head(model, method, content)
    sequences = [answered(prompt_of(model.renderer, example_of(probe)), probe["tuned"]["tokens"]) for probe in content["probes"]]
    with Sides(model, method).side("tuned") as answering:
        scores = score(answering, sequences)
    expected = [np.array(probe["tuned"]["logprobs"]) for probe in content["probes"]]
    distances = [np.abs(s.logprobs_L - e) for s, e in zip(scores, expected, strict=True)]
    result = _result(distances, [s.hits_L for s in scores])
    limits = max(TOLERANCE[content["dtype"]], TOLERANCE[_dtype(model)])
    if not (result.mean <= limits[0] and result.largest <= limits[1]):  # so written, nan does not pass
        raise _differs(model, content, distances, [s.logprobs_L for s in scores], result, limits)
    return result


def replay_prompts(model: Model, method: Method, folder: Path) -> int:
    """Hold weights that were never certified themselves, those of an earlier pass, against the certificate of their run.

    Prompts must render to the same tokens, and the answers must not be exactly the base's. Returns how many prompts were compared.

    Raises:
        ResultError: a prompt renders otherwise (``template_drift``), or what was learned is ignored (``certificate``).
        StorageError: the certificate cannot be read.
    """
    content = read(folder)
    probes = content["probes"]
    for number, probe in enumerate(probes, 1):
        _same_prompt(model.renderer, probe, number)
    if content.get("head"):
        return len(probes)
    sequences = [answered(prompt_of(model.renderer, example_of(probe)), probe["tuned"]["tokens"]) for probe in probes[:1]]
    both = []
    for side in SIDES:
        with Sides(model, method).side(side) as answering:
            both.append([s.logprobs_L for s in score(answering, sequences)])
    if all(np.array_equal(base, tuned) for base, tuned in zip(*both, strict=True)) and sequences:
        what = "The weights answer exactly as the base does: they are ignored, or nothing was learned."
        raise ResultError(what, where=_where(probes[0]), remedy="Load what the run saved, on the base it names.", code="certificate")
    return len(probes)


def _replay_head(model: Model, method: Method | None, content: dict[str, Any]) -> Replay:
    distances, same = certified_heads.replayed(model, method, content["probes"])
    result = _result(distances, same)
    limits = max(TOLERANCE[content["dtype"]], TOLERANCE[_dtype(model)])
    if not (result.mean <= limits[0] and result.largest <= limits[1]):  # so written, nan does not pass
        number = int(np.argmax([found.max() for found in distances]))
        raise ResultError(
            f"The head does not say what is certified. Probe {number + 1}: an output is {distances[number].max():.4f} off (allowed "
            f"{limits[1]:g}); the mean of {result.tokens} is {result.mean:.4f} (allowed {limits[0]:g}) in {_dtype(model)}.",
            where=_where(content["probes"][number]),
            remedy="Another base, adapter, head or number format was loaded, or a file was changed: load what the run saved.",
            code="certificate",
        )
    return result


def prompt_of(renderer: Renderer, example: Example) -> list[int]:
    """Token ids a probe asks with; a plain text asks with its beginning."""
    if example.form == "text":
        tokens = renderer.render(example)[0].tokens
        return [int(token) for token in tokens[: max(1, min(TEXT_PROMPT, len(tokens) // 2))]]
    return renderer.prompt_of(example)


def read(folder: Path) -> dict[str, Any]:
    """The certificate in `folder`, as it was written.

    Raises:
        StorageError: it cannot be read, or another version wrote it.
    """
    path = folder / "certificate.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"The certificate cannot be read: {error}.", where=str(path), remedy="Delete it; `luthier tune --resume RUN` writes it again."
        ) from error
    if content.get("version") != VERSION:
        what = f"The certificate has version {content.get('version')}, this Luthier reads {VERSION}."
        raise StorageError(what, where=str(path), remedy="Use the Luthier that wrote it.")
    return content


def _plain(example: Example) -> dict[str, Any]:
    """What is needed to render the prompt again. An empty answer stands for the one in the data: where it stands decides the prompt."""
    answer = [] if example.sided or example.form == "text" else [Message("assistant")]
    messages = [asdict(message) for message in [*before_last_answer(example), *answer]]
    return {
        "source": asdict(example.source),
        "form": example.form,
        "messages": messages,
        "tools": example.tools,
        "text": example.text,
        "pair": example.pair,
    }


def example_of(probe: dict[str, Any]) -> Example:
    """What a probe of a certificate asks, as a row."""
    plain = probe["example"]
    messages = [Message(**{**each, "media": tuple(Medium(**m) for m in each.get("media", ()))}) for each in plain["messages"]]
    return Example(
        Source(**plain["source"]),
        form=plain["form"],
        messages=messages,
        tools=plain["tools"],
        text=plain["text"],
        pair=plain.get("pair", ""),
    )


def _answer(generation: Generation) -> dict[str, Any]:
    return {"tokens": generation.tokens, "logprobs": [round(value, 6) for value in generation.logprobs]}


def _same_prompt(renderer: Renderer, probe: dict[str, Any], number: int) -> None:
    now, then = prompt_of(renderer, example_of(probe)), probe["prompt"]
    if now == then:
        return
    place = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), min(len(now), len(then)))
    raise ResultError(
        f"Probe {number} renders to other tokens than at tuning: token {place + 1} is {_shown(renderer, now, place)}, "
        f"it was {_shown(renderer, then, place)} ({len(now)} tokens against {len(then)}).",
        where=_where(probe),
        remedy="Tokenizer or chat template changed; use the ones saved with the run.",
        code="template_drift",
    )


def _result(distances: list[NDArray[np.float64]], hits: list[NDArray[np.bool_]]) -> Replay:
    if not distances:
        return Replay(0, 0, 0.0, 0.0, 1.0)
    every, first = np.concatenate(distances), np.concatenate(hits)
    return Replay(len(distances), len(every), float(every.mean()), float(every.max()), float(first.mean()))


def _differs(
    model: Model,
    content: dict[str, Any],
    distances: list[NDArray[np.float64]],
    found: list[NDArray[np.float32]],
    result: Replay,
    limits: tuple[float, float],
) -> ResultError:
    threshold = limits[0] if result.largest <= limits[1] else limits[1]
    number, place = next((i, int(np.argmin(d <= threshold))) for i, d in enumerate(distances) if not (d <= threshold).all())
    probe = content["probes"][number]
    token, then = probe["tuned"]["tokens"][place], probe["tuned"]["logprobs"][place]
    return ResultError(
        f"The model does not answer as certified. Probe {number + 1}, answer token {place + 1} ({model.renderer.decode([token])!r}) has "
        f"log-probability {found[number][place]:.4f}, it was {then:.4f}; largest distance {result.largest:.4f} (allowed {limits[1]:g}), "
        f"mean {result.mean:.4f} (allowed {limits[0]:g}) over {result.tokens} tokens in {_dtype(model)}.",
        where=_where(probe),
        remedy="Another base, adapter or number format was loaded, or a file was changed: load what the run saved.",
        code="certificate",
    )


def _told_apart(base: list[Generation], tuned: list[Generation], dtype: str) -> bool:
    """Whether base and tuned differ on the probes by more than the tolerance: only then can a replay notice an ignored adapter."""
    for left, right in zip(base, tuned, strict=True):
        if left.tokens != right.tokens:
            return True
    distances = [abs(a - b) for left, right in zip(base, tuned, strict=True) for a, b in zip(left.logprobs, right.logprobs, strict=True)]
    return bool(distances) and float(np.mean(distances)) > TOLERANCE[dtype][0]


def _dtype(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")


def _shown(renderer: Renderer, tokens: list[int], place: int) -> str:
    return f"{tokens[place]} ({renderer.decode([tokens[place]])!r})" if place < len(tokens) else "missing"


def _where(probe: dict[str, Any]) -> str:
    return str(Source(**probe["example"]["source"]))
