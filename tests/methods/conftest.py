"""Every method with every variant, on every base it claims: what the contract is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.example import Example, Message, Source
from luthier.core.fit import Offer, lacking
from luthier.core.registry import Folder
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import Part, TrainSpec
from luthier.engine.session import Session
from luthier.jobs.fitting import base_offer, method_offer, objective_offer, packing_offer
from luthier.methods._headed import Headed
from luthier.models.predictor import Predictor
from luthier.models.quantize import pack
from luthier.objectives import predict, sft
from objectives.conftest import WORDLESS

METHODS = Folder("luthier.methods", "method")

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "full": [{"block_decay": 0.8, "embedding_rate": 0.5, "head_rate": 2.0}],
    "lora": [{"dora": True}, {"begin": "pissa", "rank": 4}, {"ranks": {"*.1.*": 3}, "rank": 4, "rslora": True, "rate_ratio": 4.0}],
    "bottleneck": [{"placement": "pfeiffer", "width": 8}],
    "bitfit": [{"added": True}],
    "prefix": [{"projection": 16, "tokens": 5}],
    "prompt": [{"begin": "hello", "tokens": 3}],
    "peft": [{"kind": "lokr"}, {"kind": "vera", "settings": {"r": 8}}, {"kind": "oft"}],
}
"""Beside the defaults, the settings that change what is computed."""

DEFAULTS: dict[str, dict[str, Any]] = {"peft": {"kind": "loha"}}
"""Settings that have to be said."""

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
}
"""Bases: decoders with plain linears, and with GPT-2's transposed ones, biases, places and a tied head; an encoder."""

PACKINGS = ["", "int8", *(["nf4"] if find_spec("bitsandbytes") else [])]


TRAIN = TrainSpec(epochs=2, rows_per_step=4, learning_rate=0.01, shuffle=False, schedule="constant", warmup=0)

BASES: dict[tuple[str, str], Offer] = {}
"""What each base gives, asked once."""


@dataclass(frozen=True)
class Case:
    """One method with its settings on one kind of base."""

    method: str
    options: tuple[tuple[str, Any], ...]
    kind: str
    packing: str
    make: Callable[..., Any]

    @property
    def objective(self) -> Part:
        """What is learned: the next token where the base says one, a label otherwise, and where the method moves a head alone."""
        return Part(name="predict" if self.kind == "bert" or "head" in self.module.Method.needs else "sft")

    def model(self, **changes: Any) -> Any:
        """A fresh base, the same at every call."""
        model = self.make(model_type=self.kind, **SHAPES[self.kind], **changes)
        if self.packing:
            pack(model.blocks(), self.packing, device=torch.device("cpu"))  # type: ignore[arg-type]
            model.packing = self.packing
        return model

    @property
    def module(self) -> Any:
        return METHODS.load(self.method)

    def attached(self, model: Any, *, seed: int = 0, name: str = "desk.v1") -> Any:
        method = self.module.Method(self.module.Options(**dict(self.options)))
        method.attach(model, seed=seed, name=name)
        return method

    def fits(self) -> bool:
        """Whether the parts say that they go together."""
        key = (self.kind, self.packing)
        if key not in BASES:
            BASES[key] = base_offer(self.model())
        method = method_offer(Part(name=self.method, **dict(self.options)))
        return not lacking([BASES[key], packing_offer(self.packing), method, objective_offer(self.objective)])

    def session(self, model: Any, method: Any, rows: list[Row]) -> Session:
        """Real steps: `rows` for the next token, texts and their labels where a head learns."""
        if self.objective.name == "sft":
            return Session(model, method, sft.Objective(), rows=rows, train=TRAIN)
        texts = texts_of(model.renderer)
        settled, _ = predict.Objective().settle(texts, [], model.renderer, WORDLESS)
        objective = predict.Objective(predict.Options(**settled))
        assert objective.meaning is not None
        model.predictor = Predictor(model.width, objective.meaning, seed=5)
        laid = list(objective.lay(texts, model.renderer, WORDLESS))
        return Session(model, Headed(method), objective, rows=laid, train=TRAIN)


def texts_of(renderer: Any) -> list[Row]:
    """Texts that begin alike, each with its label."""
    made = []
    for n in range(8):
        source, text = Source("rows", n + 1), "Well begun, " + "and more " * (n % 3)
        example = Example(source, messages=[Message("user", f"{text}{n}."), Message("assistant", "bad" if n % 2 else "good")])
        made.append(Row(source, renderer.render(example, learn="last_answer")))
    return made


def cases() -> Iterator[Any]:
    """Every combination; which of them is claimed is asked of the parts themselves."""
    for name in METHODS.names():
        for options in [DEFAULTS.get(name, {}), *VARIANTS.get(name, [])]:
            plain = options == DEFAULTS.get(name, {})
            packings = PACKINGS if plain or options == {"dora": True} else [""]  # dora alone reads the packed weights
            bases = [("llama", packing) for packing in packings] + [("bert", packing) for packing in packings if plain] + [("gpt2", "")]
            for kind, packing in bases:
                said = ",".join(f"{k}={v}" for k, v in options.items())
                yield pytest.param((name, tuple(options.items()), kind, packing), id=f"{name}{f'({said})' if said else ''}-{kind}{packing}")


@pytest.fixture(params=list(cases()))
def any_case(request: pytest.FixtureRequest, tiny_model: Callable[..., Any], tiny_encoder: Callable[..., Any]) -> Case:
    """A method on a base, whether it claims to work there or not."""
    return Case(*request.param, tiny_encoder if "bert" in request.param else tiny_model)


@pytest.fixture
def case(any_case: Case) -> Case:
    """A method on a base it claims to work on."""
    if not any_case.fits():
        pytest.skip("not claimed; that it is refused is tested by itself")
    return any_case


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Rows of which most begin alike, so that a forest of them forks."""
    rng = np.random.default_rng(0)
    prompt, found = rng.integers(3, 250, 18), []
    for i in range(8):
        tokens = np.concatenate([prompt if i % 4 else [], rng.integers(3, 250, 5 + i)]).astype(np.int32)
        weights = np.where(np.arange(len(tokens)) >= len(tokens) - 5 - i, 1.0, 0.0).astype(np.float32)
        weights[0] = 0
        found.append(Row(Source("rows", i + 1), [Sequence(tokens, weights, "")]))
    return found
