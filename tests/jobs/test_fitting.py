"""Parts that do not go together are refused before anything is spent, with the nearest that works, and that one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.errors import SpecError
from luthier.core.sequence import Row
from luthier.core.spec import DataSpec, Spec
from luthier.data.check import check
from luthier.data.read import read
from luthier.export import export
from luthier.jobs.fitting import check_fit
from luthier.methods import ia3, prompt
from luthier.models.quantize import pack

BASES: dict[str, dict[str, Any]] = {
    "decoder": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1},
}
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    # base, what is asked for beside the defaults, what is wrong, what would do
    ("decoder", {"method": "bitfit"}, "method bitfit wants a model that has biases", "method=lora"),
    ("decoder", {"method": "head"}, "method head wants an objective that puts a head", "objective=predict"),
    (
        "decoder",
        {"objective": "grpo", "method": "full"},
        "objective grpo wants a method that leaves a base that can be asked",
        "method=lora",
    ),
    ("gpt2", {"method": "peft:loha"}, "method peft wants a model that has linears as torch has them", "method=lora"),
    ("decoder nf4", {"method": "full"}, "model.dtype nf4 wants a method that works on packed weights", "model.dtype=auto"),
    ("decoder int8", {"method": "freeze"}, "model.dtype int8 wants a method that works on packed weights", "method=lora"),
    ("decoder int8", {"method": "peft:loha"}, "model.dtype int8 wants a method that works on packed weights", "method=lora"),
    ("encoder", {"objective": "sft"}, "objective sft wants a model that writes the next token", "objective=predict"),
    ("encoder", {"objective": "dpo"}, "objective dpo wants a model that writes the next token", "objective=predict"),
    ("encoder", {"objective": "predict", "method": "prefix"}, "method prefix wants a model that attends", "method=lora"),
    ("encoder", {"objective": "predict", "method": "prompt"}, "method prompt wants a model that embeds tokens", "method=lora"),
]
ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    # objective, on which rows, what is wrong, what would do
    *(
        (name, "chat", f"objective {name} wants data that compare two answers", "objective=sft")
        for name in ("dpo", "orpo", "simpo", "reward")
    ),
    ("kto", "chat", "objective kto wants data that say of every answer whether it is good", "objective=sft"),
    ("dpo", "judged", "objective dpo wants data that compare two answers", "objective=kto"),
    ("tags", "chat", "objective predict wants data that have words and their tags", "objective=sft"),
]


@pytest.fixture
def base(tiny_model: Callable[..., Any], tiny_encoder: Callable[..., Any]) -> Callable[[str], Any]:
    def made(name: str) -> Any:
        kind, _, packing = name.partition(" ")
        if packing == "nf4" and not find_spec("bitsandbytes"):
            pytest.skip("no bitsandbytes")
        model = tiny_encoder() if kind == "encoder" else tiny_model(**BASES[kind])
        if packing:
            pack(model.blocks(), packing, device=torch.device("cpu"))  # type: ignore[arg-type]
            model.packing = packing
        return model

    return made


def asked(**parts: Any) -> Spec:
    return Spec.parse({name: {"name": part} if isinstance(part, str) else part for name, part in parts.items()})


@pytest.mark.parametrize(("name", "parts", "wrong", "nearest"), WRONG, ids=[f"{name} {parts}" for name, parts, *_ in WRONG])
def test_a_part_that_wants_what_no_other_gives(
    name: str, parts: dict[str, str], wrong: str, nearest: str, base: Callable[[str], Any]
) -> None:
    model = base(name)
    with pytest.raises(SpecError, match=f"{wrong}.*The nearest that work: .*{nearest}") as caught:
        check_fit(asked(**parts), model)
    assert caught.value.code == "misfit"
    setting, _, value = nearest.partition("=")
    if setting == "model.dtype":
        model = base("decoder")
    check_fit(asked(**parts | ({setting: value} if setting != "model.dtype" else {})), model)


@pytest.mark.parametrize(("objective", "kind", "wrong", "nearest"), ROWS, ids=[f"{name} on {kind}" for name, kind, *_ in ROWS])
def test_an_objective_on_rows_that_do_not_say_what_it_reads(
    objective: str, kind: str, wrong: str, nearest: str, base: Callable[[str], Any], tmp_path: Path
) -> None:
    model, file = base("decoder"), written(tmp_path, kind)
    rows = [Row(example.source, model.renderer.render(example)) for example in read(file)]
    part = {"name": "predict", "kind": "tags"} if objective == "tags" else objective
    data = {"data": {"file": str(file), "format": "auto"}}
    with pytest.raises(SpecError, match=f"{wrong}.*, and data rows.jsonl do not.*The nearest that work: .*{nearest}"):
        check_fit(Spec.parse({**data, "objective": part if isinstance(part, dict) else {"name": part}}), model, rows)
    check_fit(Spec.parse({**data, "objective": {"name": nearest.partition("=")[2]}}), model, rows)


def written(folder: Path, kind: str) -> Path:
    """Rows with one answer, with one that is judged, or with two."""
    row = {
        "chat": {"prompt": "Where is it?", "completion": "here"},
        "judged": {"prompt": "Where is it?", "completion": "here", "label": True},
        "pairs": {"prompt": "Where is it?", "chosen": "here", "rejected": "-"},
    }
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row[kind]) for _ in range(12)))
    return folder / "rows.jsonl"


def test_rows_of_pairs_are_what_preferences_read(base: Callable[[str], Any], tmp_path: Path) -> None:
    model, file = base("decoder"), written(tmp_path, "pairs")
    rows = [Row(example.source, model.renderer.render(example)) for example in read(file)]
    for objective in ("dpo", "orpo", "simpo", "reward", "kto"):
        check_fit(asked(objective=objective), model, rows)


@pytest.mark.parametrize(("method", "other"), [(prompt.Method(), "It can be: peft"), (ia3.Method(), "")], ids=["prompt", "ia3"])
def test_what_does_not_fold_is_not_exported_as_merged(method: Any, other: str, base: Callable[[str], Any], tmp_path: Path) -> None:
    model = base("decoder")
    method.attach(model)
    if other:
        with pytest.raises(SpecError, match=f"cannot be exported as merged.*{other}"):
            export("merged", model, method, tmp_path / "out")
    else:
        export("merged", model, method, tmp_path / "out")
        assert (tmp_path / "out" / "config.json").is_file()


def test_pictures_for_a_model_of_words_are_refused_by_row(base: Callable[[str], Any], tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image").new("RGB", (8, 8)).save(tmp_path / "a.png")
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "grey"}]}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(12)))
    model = base("decoder")
    report = check(tmp_path / "rows.jsonl", data=DataSpec(), renderer=model.renderer, context=model.context)
    assert any("has a picture or a sound, which this model does not take in" in str(problem) for problem in report.problems)
