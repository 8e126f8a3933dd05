"""Every method with every variant, on every base it claims: what the contract is held against."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from luthier.core.example import Example, Message, Source
from luthier.core.fit import Offer, lacking
from luthier.core.registry import Folder
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import DataSpec, Part, TrainSpec
from luthier.data.read import read
from luthier.data.tokenise import tokenise
from luthier.engine.session import Session
from luthier.jobs.fitting import base_offer, method_offer, objective_offer, packing_offer
from luthier.methods._headed import Headed
from luthier.models.predictor import Predictor
from luthier.models.quantize import pack
from luthier.objectives import predict, sft
from objectives.conftest import WORDLESS
from tiny_families import FAMILIES, tiny

METHODS = Folder("luthier.methods", "method")

HEADS = ("vit", "ast")
"""Those that write nothing: what learns is a head."""

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


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A fresh tiny base of a family, the same at every call."""

    def made(family: str, packing: str = "") -> Any:
        wide = {"hidden_size": 64, "intermediate_size": 64} if packing and family in HEADS else {}
        model = tiny(FAMILIES[family] | wide, tmp_path_factory.mktemp(family))
        if packing:
            pack(model.blocks(), packing, device=torch.device("cpu"))  # type: ignore[arg-type]
            model.packing = packing
        return model

    return made


@pytest.fixture(scope="session")
def family_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, str], list[Row]]:
    """Four rows as each family takes them in."""
    folder = tmp_path_factory.mktemp("rows")
    shown: dict[str, list[dict[str, Any]]] = {name: [] for name in FAMILIES}
    for n, label in enumerate(["low", "high", "low", "high"]):
        drawn = io.BytesIO()
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (14, 18, 3), np.uint8)).save(drawn, "PNG")
        (folder / f"{n}.png").write_bytes(drawn.getvalue())
        with wave.open(str(folder / f"{n}.wav"), "wb") as file:
            file.setframerate(16_000)
            file.setsampwidth(2)
            file.setnchannels(1)
            file.writeframes((20_000 * np.sin(np.arange(6_000) * (0.1 + n % 2))).astype("<i2").tobytes())
        shown["t5"].append({"prompt": f"say {n}", "completion": label})
        shown["vit"].append({"image": f"{n}.png", "label": label})
        shown["ast"].append({"audio": f"{n}.wav", "label": label})
        shown["whisper"].append({"audio": f"{n}.wav", "text": label})
        turns = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": label}]
        shown["llava"].append({"messages": turns, "images": [f"{n}.png"]})
    for name, each in shown.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, each)))

    def laid(model: Any, family: str) -> list[Row]:
        examples = [each for each in read(folder / f"{family}.jsonl") if isinstance(each, Example)]
        assert len(examples) == 4
        cache = folder / f"cache-{family}"
        return list(tokenise(examples, renderer=model.renderer, data=DataSpec(), context=model.context, cache=cache, key="k"))

    return laid
