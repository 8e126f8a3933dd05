"""The instructions, the plan, bits per byte and the two phases of the recipe, on a model of a few thousand weights."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answers import SYSTEM
from bits_per_byte import bits_per_byte
from card import mix
from instruct import as_json, conversations, example
from plan import Plan, decided
from prepare import write
from rows import TokenRows

from luthier.data.render import Renderer


def test_instructions_follow_from_the_seed() -> None:
    first, again, other = (conversations(count=200, seed=seed) for seed in (3, 3, 4))
    assert list(map(as_json, first)) == list(map(as_json, again)) != list(map(as_json, other))


def test_instructions_are_of_many_kinds_and_none_is_the_desk() -> None:
    tasks = conversations(count=1500)
    assert len({(task.system, task.user) for task in tasks}) == 1500
    assert max(Counter(task.answer for task in tasks if task.answer).values()) < 120
    assert not any("pottery" in task.system + task.user or task.system == SYSTEM for task in tasks)


def test_every_instruction_renders_and_learns_its_answer(bundled: Path) -> None:
    renderer = Renderer.from_folder(bundled)
    for number, task in enumerate(conversations(count=300)):
        (sequence,) = renderer.render(example(task, number))
        learned = renderer.decode([int(t) for t, weight in zip(sequence.tokens, sequence.weights, strict=True) if weight])
        expected = task.answer or "".join(
            f'{{"name": "{c["function"]["name"]}", "arguments": {c["function"]["arguments"]}}}' for c in task.calls
        )
        assert learned == f"{expected}<|im_end|>"


def test_bits_per_byte_equals_the_plain_computation(tiny_model: Callable[..., Any]) -> None:
    model, texts = tiny_model(seed=5), ["A short text.", "An umlaut: ü."]
    plain = tiny_model(seed=5).network
    plain.set_attn_implementation("eager")
    nats = 0.0
    for text in texts:
        tokens = torch.tensor(model.renderer.encode(text))
        with torch.no_grad():
            logits = plain(tokens[None]).logits[0]
        nats -= logits[:-1].log_softmax(-1).gather(1, tokens[1:, None]).sum().item()
    num_bytes = sum(len(text.encode()) - 1 for text in texts)  # the first piece is one byte and is not counted
    assert bits_per_byte(model, texts) == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("measured again")

    (tmp_path / "plan.json").write_text(json.dumps({"minutes": 1.0, "pretrain_steps": 2, "instruct_steps": 3, "tokens_per_second": 4.0}))
    assert decided(tmp_path / "plan.json", minutes=9.0, pretrain=never, instruct=never) == Plan(1.0, 2, 3, 4.0)


def test_the_mix_table_adds_up() -> None:
    table = mix({"train": {"groups": {"a": {"documents": 2, "tokens": 1_500_000}}, "total": {"documents": 2, "tokens": 1_500_000}}})
    assert table.splitlines()[2:] == ["| a | 2 | 1.50 |", "| **all** | 2 | 1.50 |"]


def test_the_recipe_learns_goes_on_and_writes_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundled: Path
) -> None:
    import train

    renderer = Renderer.from_folder(bundled)
    small = json.loads((bundled / "config.json").read_text()) | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "head_dim": 8,
    }
    monkeypatch.setattr(train.Recipe, "fresh", lambda self: train.load.fresh(small, renderer=self.renderer, seed=0, dtype="float32"))
    monkeypatch.setattr(train, "examples", lambda: [example(task, n) for n, task in enumerate(conversations(count=60))])
    text = np.array([*renderer.encode("The cat sat on the mat. " * 20), 0], np.uint16)
    (tmp_path / "tokens").mkdir()
    write(tmp_path / "tokens", "tokens", [text] * 60, contexts=(64,))
    write(tmp_path / "tokens", "heldout", [text], contexts=(64,))
    facts = {"train": {"groups": {}, "total": {"documents": 60, "tokens": len(text) * 60}}}
    (tmp_path / "tokens/facts.json").write_text(json.dumps(facts))
    (tmp_path / "1m").mkdir()
    (tmp_path / "1m/plan.json").write_text(json.dumps({"minutes": 1.0, "pretrain_steps": 8, "instruct_steps": 2, "tokens_per_second": 4.0}))
    monkeypatch.setattr(train, "held_out", lambda shared: [type("Document", (), {"text": "The cat sat on the mat."})])
    train.main([str(tmp_path), "--shared", str(tmp_path), "--minutes", "1"])
    shown = capsys.readouterr().out
    assert "pretrain step 8/8" in shown and "instruct step 2/2" in shown and "bits per byte" in shown
    steps = [json.loads(line) for line in (tmp_path / "1m/pretrain/steps.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if step["kind"] == "stepped"]
    assert losses[-1] < losses[0]
    card = (tmp_path / "1m/model/README.md").read_text()
    assert "8 steps on plain text and 2 on instructions" in card and "CC BY 4.0" in card and "@" not in card
    assert (tmp_path / "1m/model/model.safetensors").exists()
    train.main([str(tmp_path), "--shared", str(tmp_path), "--minutes", "1"])
    assert "Resumed after step 8 of 8." in capsys.readouterr().out


def test_rows_shorter_than_asked_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "tokens", [np.arange(1, 40, dtype=np.uint16)], contexts=(32,))
    assert [len(row.sequences[0].tokens) for row in TokenRows(tmp_path, "tokens", shortest=32)] == [32]
