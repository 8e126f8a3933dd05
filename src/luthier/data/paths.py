"""From encoded turns to token paths: one path while each prompt continues what was learned before, a fork where it does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from luthier.core.sequence import Sequence


@dataclass(slots=True)
class Path:
    """A path that still grows."""

    tokens: list[int] = field(default_factory=list)
    runs: list[tuple[float, int]] = field(default_factory=list)  # weights, and how many tokens in a row have them

    def extend(self, tokens: list[int], weight: float) -> None:
        """Append `tokens`, each learned with `weight`."""
        self.tokens += tokens
        self.runs.append((weight, len(tokens)))

    def sequence(self, part: str = "") -> Sequence:
        """The finished path. The first token is never learned: nothing precedes it."""
        weights = np.zeros(len(self.tokens), np.float32)
        start = 0
        for weight, count in self.runs:
            weights[start : start + count] = weight
            start += count
        weights[:1] = 0
        return Sequence(np.array(self.tokens, np.int32), weights, part)


class Paths:
    """All paths of one row. A prompt continues a path exactly when its ids begin with that path's ids; else it starts a path of its own,
    so that no answer is ever learned after other ids than the server would feed.
    """

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def add(self, prompt: list[int], answer: list[int], *, weight: float, prompt_weight: float = 0.0) -> None:
        """Lay an answer after its prompt.

        Args:
            weight: of every answer token. prompt_weight: of prompt tokens no path holds yet (``learn: everything``).
        """
        path = self._continued(prompt)
        path.extend(prompt[len(path.tokens) :], prompt_weight)
        path.extend(answer, weight)

    def sequences(self, part: str = "") -> list[Sequence]:
        """The finished paths, without those that teach nothing beside others that do."""
        done = [path.sequence(part) for path in self.paths]
        return [sequence for sequence in done if sequence.weights.any()] or done[:1]

    def _continued(self, prompt: list[int]) -> Path:
        for path in reversed(self.paths):
            if len(path.tokens) <= len(prompt) and prompt[: len(path.tokens)] == path.tokens:
                return path
        shared = max((_shared(path.tokens, prompt) for path in self.paths), default=0)
        fork = Path(prompt[:shared], [(0.0, shared)])  # what another path already holds is learned there, once
        self.paths.append(fork)
        return fork


def _shared(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))
