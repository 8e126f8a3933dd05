"""What a head said of probes, for the certificate: its outputs at every learned place, read again whenever the model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Row, Sequence
from luthier.engine.score import outputs
from luthier.inference.sides import SIDES, Method, Sides
from luthier.models.model import Model


def probes(model: Model, method: Method | None, rows: list[Row]) -> list[dict[str, Any]]:
    """Of each row the tokens of its paths, the places that are read, and what the head says there on the base's and on the tuned states.

    Where the method overwrote the base, only what is tuned is asked: the head belongs to no other model.
    """
    paths = [sequence for row in rows for sequence in row.sequences]
    sides = [side for side in SIDES if side == "tuned" or (method is not None and "swap" in method.supports)]
    said = {}
    for side in sides:
        with Sides(model, method).side(side) as answering:
            said[side] = iter(outputs(answering, paths))
    return [{"paths": [_plain(path, {side: next(said[side]) for side in sides}) for path in row.sequences]} for row in rows]


def _plain(path: Sequence, said: dict[Any, NDArray[np.float32]]) -> dict[str, Any]:
    places = np.flatnonzero(path.weights).tolist()
    shown = {"media": list(path.media)} if path.media else {}
    return {"tokens": path.tokens.tolist(), "places": places, **shown, **{side: found.round(6).tolist() for side, found in said.items()}}


def told_apart(found: list[dict[str, Any]], tolerance: float) -> bool:
    """Whether the base's states make the head say something else: only then can a replay notice that the method is ignored."""
    paths = [path for probe in found for path in probe["paths"] if "base" in path]
    distances = [np.abs(np.array(path["base"]) - np.array(path["tuned"])).mean() for path in paths]
    return bool(distances) and float(np.mean(distances)) > tolerance


def replayed(model: Model, method: Method | None, found: list[dict[str, Any]]) -> tuple[list[NDArray[np.float64]], list[NDArray[np.bool_]]]:
    """Of each probe, how far every output is from the certified one, and whether the greatest of each place is still the same."""
    distances, same = [], []
    paths = [path for probe in found for path in probe["paths"]]
    with Sides(model, method).side("tuned") as answering:
        said = iter(outputs(answering, [_path(path) for path in paths]))
    for probe in found:
        pairs = [(next(said), np.array(path["tuned"])) for path in probe["paths"]]
        distances.append(np.concatenate([np.abs(now - then).ravel() for now, then in pairs]))
        same.append(np.concatenate([now.argmax(-1) == then.argmax(-1) for now, then in pairs]))
    return distances, same


def _path(plain: dict[str, Any]) -> Sequence:
    weights = np.zeros(len(plain["tokens"]), np.float32)
    weights[plain["places"]] = 1.0
    media = tuple(plain.get("media", ()))
    return Sequence(np.array(plain["tokens"], np.int32), weights, apart=bool(media), media=media)
