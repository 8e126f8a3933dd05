"""What is exported answers as the tuned model did, in plain transformers and in PEFT."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.core.errors import SpecError, StorageError
from luthier.core.example import Message
from luthier.export import EXPORTERS, export
from luthier.methods import full, lora
from luthier.models.load import save
from luthier.models.sight import Sight

Make = Callable[..., Any]
TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])


def logits(model: Any) -> Tensor:
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight)).detach()


def tuned(model: Any) -> lora.Method:
    method = lora.Method(lora.Options(rank=4))
    method.attach(model)
    torch.manual_seed(0)
    for delta in method.deltas(model).values():
        nn.init.normal_(delta.B, std=0.1)
    return method


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_merged_answers_the_same_in_plain_transformers(dtype: str, tolerance: float, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model(dtype=dtype)
    method = tuned(model)
    expected = logits(model).float()
    export("merged", model, method, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=getattr(torch, dtype), attn_implementation="eager")
    got = theirs(TOKENS_T[None]).logits[0].detach().float()
    assert (got - expected).norm() / expected.norm() < tolerance


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by the old name
def test_the_adapter_answers_the_same_in_peft(tiny_model: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    model = tiny_model()
    save(model, tmp_path / "base")
    method = tuned(model)
    export("peft", model, method, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(str(tmp_path / "base"), attn_implementation="eager")
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    torch.testing.assert_close(theirs(TOKENS_T[None]).logits[0], logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", EXPORTERS.names())
def test_a_full_disk_is_said_and_leaves_nothing(to: str, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    method = tuned(model)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, kept[1]))  # writing past it fails as a full disk does
    try:
        with pytest.raises(StorageError, match="Could not write"):
            export(to, model, method, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", EXPORTERS.names())
def test_the_template_travels_frozen(to: str, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    export(to, model, tuned(model), tmp_path / "out")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße?"}]
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "out")).apply_chat_template(messages, add_generation_prompt=True)
    assert list(theirs["input_ids"]) == model.renderer.prompt([Message(**m) for m in messages])


def test_full_tuning_has_no_adapter_to_export(tiny_model: Make, tmp_path: Path) -> None:
    model, method = tiny_model(), full.Method()
    method.attach(model)
    with pytest.raises(SpecError, match=r"cannot be exported as peft. It can be: merged"):
        export("peft", model, method, tmp_path / "out")
    export("merged", model, method, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_export_deletes_nothing_and_suggests(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SpecError, match="exists and is not empty"):
        export("merged", model, tuned(model), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    with pytest.raises(SpecError, match=r"Did you mean merged\?"):
        export("mergd", model, None, tmp_path / "out")
