"""A head that says something else than the next token: a class, several, a number, a tag for every word, which of two is better.

    states_ND  --  W [C, D], b [C], fp32  -->  outputs_NC        read by `Predictor.read` as `Meaning.kind` says

N states, D width of a state, C outputs. It lies with the weights of the method it was tuned with, in a folder
``predictor`` among them, and a model that should have one and finds none is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.core.files import write_json

FOLDER, WEIGHTS, MEANING = "predictor", "weights.safetensors", "meaning.json"

Kind = Literal["class", "labels", "ordinal", "number", "tags", "ranking"]
"""One label of several; any number of labels; labels in an order; a number; a label for every word; which of two is better."""


def _few(labels: Iterable[str]) -> str:
    names = list(labels)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "a number"


START = 0.02
"""Standard deviation of the first weights, as in transformers: small beside states of unit size, and no gradient is zero."""


@dataclass(frozen=True)
class Meaning:
    """How outputs are read.

    Attributes:
        labels: names of the classes, in order; empty for numbers and rankings.
        centre, scale: a number is ``centre + scale * output``.
        temperature: outputs of classes are divided by it before they become probabilities; fitted on held-out rows.
        threshold: probability from which a label of several is said.
        usual: what a head that reads nothing would say: the most frequent answer of the rows it learned from, the median of numbers.
    """

    kind: Kind
    labels: tuple[str, ...] = ()
    centre: float = 0.0
    scale: float = 1.0
    temperature: float = 1.0
    threshold: float = 0.5
    usual: str = ""

    @property
    def outputs(self) -> int:
        """C: one for each class; for an order one for each border between neighbours; else one."""
        return {"ordinal": len(self.labels) - 1, "number": 1, "ranking": 1}.get(self.kind, len(self.labels))

    def truth(self, targets: NDArray[Any]) -> list[Any]:
        """What the targets of a row mean: a label, a list of labels or a number for each; the opposite of how they were made."""
        if self.kind == "number":
            return [self.centre + self.scale * float(value) for value in targets]
        if self.kind == "labels":
            return [[self.labels[i] for i in np.flatnonzero(row)] for row in targets]
        places = targets.sum(-1) if self.kind == "ordinal" else targets
        return [self.labels[int(place)] for place in places]

    def usually(self) -> Any:
        """What is usual, as `truth` would give it."""
        if self.kind == "number":
            return float(self.usual or self.centre)
        return json.loads(self.usual or "[]") if self.kind == "labels" else self.usual


class Predictor(nn.Module):
    """``outputs = W states + b`` in fp32.

    For an order of classes all borders share one direction of `W` and differ in `b`, so that they never cross (Cao, Mirjalili and Raschka,
    arXiv 1901.07884, section 3.2): ``P(class > k) = sigmoid(w x + b_k)``.
    """

    def __init__(self, width: int, meaning: Meaning, *, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__()
        self.meaning = meaning
        rows = 1 if meaning.kind == "ordinal" else meaning.outputs
        start = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * START
        self.weight = nn.Parameter(start.to(device) if device else start)
        self.bias = nn.Parameter(torch.zeros(meaning.outputs, device=device))

    def forward(self, states_ND: Tensor) -> Tensor:
        """Outputs ``[N, C]``, float32, differentiable."""
        outputs: Tensor = states_ND.float() @ self.weight.T + self.bias
        return outputs

    def probabilities(self, outputs_NC: Tensor) -> Tensor:
        """``[N, C]`` per class (for an order, too), calibrated; for a ranking the sigmoid of the score; numbers have none.

        Raises:
            ValueError: the outputs are numbers.
        """
        kind, tempered_NC = self.meaning.kind, outputs_NC / self.meaning.temperature
        if kind == "number":
            raise ValueError("a number has no probability")
        if kind in ("labels", "ranking"):
            return tempered_NC.sigmoid()
        if kind == "ordinal":
            above_NC = tempered_NC.sigmoid()
            one, none = torch.ones_like(above_NC[:, :1]), torch.zeros_like(above_NC[:, :1])
            return (torch.cat([one, above_NC], 1) - torch.cat([above_NC, none], 1)).clamp(min=0)
        return tempered_NC.softmax(-1)

    def read(self, outputs_NC: Tensor) -> list[Any]:
        """What is said of each state: a label, a list of labels, or a number."""
        meaning = self.meaning
        if meaning.kind == "number":
            return [meaning.centre + meaning.scale * value for value in outputs_NC[:, 0].tolist()]
        if meaning.kind == "ranking":
            return outputs_NC[:, 0].tolist()
        found_NC = self.probabilities(outputs_NC)
        if meaning.kind == "labels":
            return [[meaning.labels[i] for i in (row >= meaning.threshold).nonzero().flatten().tolist()] for row in found_NC]
        if meaning.kind == "ordinal":  # the median: the expected error in steps is least there
            return [meaning.labels[int(i)] for i in (outputs_NC > 0).sum(-1)]
        return [meaning.labels[i] for i in found_NC.argmax(-1).tolist()]

    def sureness(self, outputs_1C: Tensor) -> dict[str, float]:
        """Probability of each label at one place; empty where there are none."""
        if not self.meaning.labels:
            return {}
        return dict(zip(self.meaning.labels, self.probabilities(outputs_1C)[0].tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Write the folder ``predictor`` into `folder`."""
        place = folder / FOLDER
        place.mkdir()
        save_file({"weight": self.weight.detach().cpu().contiguous(), "bias": self.bias.detach().cpu()}, place / WEIGHTS)
        write_json(place / MEANING, asdict(self.meaning))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | None = None) -> Predictor:
        """Read what `save` wrote into `folder`.

        Raises:
            ModelError: a file is missing or damaged.
        """
        try:
            told = json.loads((folder / FOLDER / MEANING).read_text(encoding="utf-8"))
            meaning, tensors = Meaning(**{**told, "labels": tuple(told["labels"])}), load_file(folder / FOLDER / WEIGHTS)
            found = cls(tensors["weight"].shape[1], meaning, device=device)
            for name, parameter in found.named_parameters():
                if parameter.shape != tensors[name].shape:
                    raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(parameter.shape)}")
                parameter.data.copy_(tensors[name])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"The head of this model cannot be read, and without it the weights say nothing: {error}.",
                where=str(folder),
                remedy=f"Put the folder {FOLDER} back among the weights it was tuned with.",
                code="head_lost",
            ) from error
        return found

    @classmethod
    def like(cls, linear: nn.Linear, meaning: Meaning) -> Predictor:
        """A checkpoint's own head, which is a linear, as one of ours."""
        found = cls(linear.in_features, meaning, device=linear.weight.device)
        with torch.no_grad():
            found.weight.copy_(linear.weight)
            found.bias.copy_(linear.bias)
        return found

    def linear(self) -> tuple[nn.Linear, tuple[str, ...]]:
        """The head as one linear for other software, temperature and scale folded in, and a name for each output.

        Of an order the outputs are "above" all labels but the last; of a number there are no names.
        """
        m = self.meaning
        factor = m.scale if m.kind == "number" else 1 / m.temperature
        found = nn.Linear(self.weight.shape[1], m.outputs, device=self.weight.device)
        with torch.no_grad():
            found.weight.copy_(self.weight * factor)
            found.bias.copy_(self.bias * factor + m.centre)
        return found.requires_grad_(False), tuple(f"above {label}" for label in m.labels[:-1]) if m.kind == "ordinal" else m.labels

    @torch.no_grad()
    def begin_as(self, other: Predictor) -> str:
        """Take over from `other` what it says of the same labels, or the same number; returns what a user should know of it."""
        mine, theirs = self.meaning, other.meaning
        cold = 1 / theirs.temperature
        if mine.kind == theirs.kind == "number":
            self.weight.copy_(other.weight * theirs.scale / mine.scale)
            self.bias.copy_((other.bias * theirs.scale + theirs.centre - mine.centre) / mine.scale)
            return "The head begins as the base's own."
        known = [label for label in mine.labels if label in theirs.labels]
        if mine.kind != theirs.kind or not known or len(self.weight) != len(mine.labels):
            return f"The base's own head ({theirs.kind}: {_few(theirs.labels)}) is not used: the rows ask for another ({mine.kind})."
        here, there = ([meaning.labels.index(label) for label in known] for meaning in (mine, theirs))
        self.weight[here], self.bias[here] = other.weight[there] * cold, other.bias[there] * cold
        new, lost = ([label for label in a if label not in b] for a, b in ((mine.labels, theirs.labels), (theirs.labels, mine.labels)))
        told = f"The head begins as the base's own for {len(known)} labels"
        told += f", new are {_few(new)}" if new else ""
        return told + (f"; the rows do not have {_few(lost)}, which the tuned model will not say." if lost else ".")

    def finish(self, *, temperature: float, usual: str) -> None:
        """Take over what is found when the weights are."""
        self.meaning = replace(self.meaning, temperature=temperature, usual=usual)
