"""Adapters of the families that read something else than words, or write beside them: files go both ways between PEFT and here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from luthier.core.example import Message
from luthier.core.registry import Folder
from luthier.core.sequence import Pictured, Row, Sequence
from luthier.engine.score import outputs, score
from luthier.methods import lora
from luthier.objectives._answers import asked
from methods.conftest import HEADS
from tiny_families import FAMILIES

METHODS = Folder("luthier.methods", "method")

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 3}),
    "dora": ("lora", {"rank": 3, "dora": True}),
    "ia3": ("ia3", {}),
    "loha": ("peft", {"kind": "loha"}),
}
"""What PEFT has too and stands beside linears."""

THEIRS: dict[str, tuple[str, str, Any]] = {
    "t5": ("t5", "lora", LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], r=3)),
    "t5-ia3": ("t5", "ia3", IA3Config(task_type="SEQ_2_SEQ_LM")),
    "whisper": ("whisper", "lora", LoraConfig(target_modules=["q_proj", "v_proj"], r=3, use_rslora=True)),
    "whisper-ia3": ("whisper", "ia3", IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])),
    "vit": ("vit", "lora", LoraConfig(target_modules=["q_proj", "v_proj"], r=3)),
    "ast": ("ast", "lora", LoraConfig(target_modules=["q_proj", "v_proj"], r=3, use_dora=True)),
    "llava": ("llava", "lora", LoraConfig(task_type="CAUSAL_LM", target_modules=r".*language_model.*(q|v)_proj", r=3)),
}
"""Adapters as people make them with PEFT, and our method for them."""

TASKS = {"t5": "SEQ_2_SEQ_LM", "llava": "CAUSAL_LM"}
"""Which wrapper PEFT takes; the plain one where nothing is said."""

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by the old name


def plain_network(model: Any) -> Any:
    """The base as transformers itself runs it."""
    plain = type(model.network)._from_config(copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    plain.load_state_dict(model.network.state_dict())
    return plain


def shaken(parameters: Any) -> None:
    """Values that would show if they were forgotten."""
    generator = torch.Generator().manual_seed(1)
    for p in parameters:
        p.data.add_(torch.randn(p.shape, generator=generator) * 0.1)


def laid(model: Any, family: str, rows: list[Row]) -> list[Sequence]:
    """Rows as they are scored: with their answers, or as the checkpoint's own head is asked."""
    paths = [path for row in rows for path in row.sequences]
    if family not in HEADS:
        return paths
    places = [path.tokens[: int(np.flatnonzero(path.weights)[0])].tolist() for path in paths]
    return [asked(Pictured(place, path.media), model.renderer) for place, path in zip(places, paths, strict=True)]


def ours(model: Any, paths: list[Sequence]) -> Tensor:
    """What the checkpoint's own head says of each row, or what its answer is worth."""
    if model.predictor is not None:
        return torch.from_numpy(np.concatenate(outputs(model, paths)))
    return torch.tensor([each.total for each in score(model, paths)])


def theirs(network: nn.Module, model: Any, paths: list[Sequence]) -> Tensor:
    """The same of a network as transformers runs it, or PEFT around it: one row at a time."""
    with torch.no_grad():
        return torch.stack([ASKED[model.config.model_type](network, model, path) for path in paths])


def seen(model: Any, path: Sequence) -> Tensor:
    return torch.from_numpy(model.renderer.picture(path.media[0]))[None]


def worth(logits_TV: Tensor, path: Sequence, begin: int) -> Tensor:
    """Of what is learned behind `begin`."""
    told_T, weights_T = torch.tensor(path.tokens[begin + 1 :]).long(), torch.tensor(path.weights[begin + 1 :])
    return (logits_TV[:-1].log_softmax(-1).gather(1, told_T[:, None])[:, 0] * weights_T).sum()


def of_t5(network: Any, model: Any, path: Sequence) -> Tensor:
    ids, begin = torch.tensor(path.tokens).long()[None], path.tokens.tolist().index(0)
    return worth(network(input_ids=ids[:, :begin], decoder_input_ids=ids[:, begin:]).logits[0], path, begin)


def of_whisper(network: Any, model: Any, path: Sequence) -> Tensor:
    begin = model.config.max_source_positions
    written = torch.tensor(path.tokens[begin:]).long()[None]
    return worth(network(input_features=seen(model, path), decoder_input_ids=written).logits[0], path, begin)


def of_llava(network: Any, model: Any, path: Sequence) -> Tensor:
    return worth(network(input_ids=torch.tensor(path.tokens).long()[None], pixel_values=seen(model, path)).logits[0], path, 0)


ASKED: dict[str, Callable[..., Tensor]] = {
    "t5": of_t5,
    "whisper": of_whisper,
    "llava": of_llava,
    "vit": lambda network, model, path: network(pixel_values=seen(model, path)).logits[0],
    "audio-spectrogram-transformer": lambda network, model, path: network(input_values=seen(model, path)).logits[0],
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ours_answers_the_same_in_peft(family: str, name: str, family_base: Any, family_rows: Any, tmp_path: Path) -> None:
    model = family_base(family)
    paths = laid(model, family, family_rows(model, family))
    plain, before = plain_network(model), ours(model, paths)
    torch.testing.assert_close(theirs(plain, model, paths), before, rtol=1e-4, atol=1e-5)
    kind, options = OURS[name]
    module = METHODS.load(kind)
    method = module.Method(module.Options(**options))
    method.attach(model)
    shaken(p for group in method.groups(model) for _, p in group.parameters)
    method.save(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain, str(tmp_path / "ours")).eval()
    found = theirs(again, model, paths)
    torch.testing.assert_close(found, ours(model, paths), rtol=1e-4, atol=1e-5)
    assert (found - before).abs().max() > 1e-3
    assert again.peft_config["default"].task_type == TASKS.get(family)


def test_an_encoder_s_answers_the_same_in_peft(tiny_encoder: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_encoder("bert", "BertForSequenceClassification", id2label={0: "low", 1: "high"}, label2id={"low": 0, "high": 1})
    tokens, plain = model.renderer.prompt([Message("user", "How low?")]), plain_network(model)
    method = lora.Method()
    method.attach(model)
    shaken(p for group in method.groups(model) for _, p in group.parameters)
    method.save(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain, str(tmp_path / "ours")).eval()
    found = ours(model, [asked(tokens, model.renderer)])
    torch.testing.assert_close(again(input_ids=torch.tensor([tokens])).logits.detach(), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", THEIRS)
def test_peft_s_answers_the_same_here(made: str, family_base: Any, family_rows: Any, tmp_path: Path) -> None:
    family, name, config = THEIRS[made]
    model = family_base(family)
    paths = laid(model, family, family_rows(model, family))
    before = ours(model, paths)
    network = get_peft_model(plain_network(model), copy.deepcopy(config)).eval()
    shaken(p for p in network.parameters() if p.requires_grad)
    network.save_pretrained(str(tmp_path / "theirs"))
    METHODS.load(name).Method.load(model, tmp_path / "theirs")
    found = ours(model, paths)
    torch.testing.assert_close(found, theirs(network, model, paths), rtol=1e-4, atol=1e-5)
    assert (found - before).abs().max() > 1e-3
