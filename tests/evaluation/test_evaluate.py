"""The whole comparison on a model that really was tuned."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.core.errors import SpecError
from luthier.core.example import Example, Message, Source
from luthier.core.spec import EvaluateSpec
from luthier.evaluation.evaluate import Evaluation, evaluate
from luthier.evaluation.items import read_items
from luthier.evaluation.likelihood import likelihood
from luthier.evaluation.questions import expected_answer, questions, spread
from luthier.inference.generate import generate
from luthier.models.sight import Sight

from .conftest import Tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def found(tuned: Tuned, folder: Path) -> Evaluation:
    return evaluate(tuned.model, tuned.method, tuned.held_out, tuned.rows, spec=EvaluateSpec(resamples=300), folder=folder)


def test_tuning_on_two_labels_is_found_better(found: Evaluation) -> None:
    assert found.verdict.better == "tuned"
    assert found.metric == "label_accuracy"
    assert "are 2 distinct labels that repeat" in found.why
    assert found.verdict.sentence.startswith("Tuned is better by ")
    assert "points of label accuracy" in found.verdict.sentence
    assert found.measures["bits_per_byte"].tuned < found.measures["bits_per_byte"].base
    assert "exact_match" in found.measures


def test_labels_are_also_chosen_without_writing(found: Evaluation, tuned: Tuned) -> None:
    """What the tree chooses is what a naive loop over the labels finds likeliest."""
    from luthier.core.sequence import answered
    from luthier.engine.score import score

    renderer, labels = tuned.model.renderer, found.labels
    ended = "\n" if labels.where == "first_line" else ""
    for item, example in list(zip(found.items, tuned.held_out, strict=True))[:4]:
        ids = [renderer.encode(text + ended) + ([] if ended else [renderer.end_token]) for text in labels.texts]
        totals = [score(tuned.model, [answered(renderer.prompt_of(example), choice)])[0].total for choice in ids]
        right = labels.values[int(np.argmax(totals))] == labels.read(item.expected)
        assert item.tuned.scores["choice_accuracy"] == float(right)
    measure = found.measures["choice_accuracy"]
    assert measure.tuned == pytest.approx(100 * np.mean([i.tuned.scores["choice_accuracy"] for i in found.items]))
    assert measure.base > found.measures["label_accuracy"].base, "the base knows the form of no answer, but picks some labels rightly"


def test_items_and_summary_are_kept(found: Evaluation, folder: Path, tuned: Tuned) -> None:
    items = list(read_items(folder / "evaluation" / "items.jsonl"))
    assert items == found.items
    assert [i.row for i in items] == [e.source.row for e in tuned.held_out]
    assert items[0].prompt == [{"role": "user", "content": tuned.held_out[0].messages[0].content}]
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert summary["verdict"]["sentence"] == found.verdict.sentence
    assert np.sum(summary["tables"]["tuned"]["confusion"]) == len(items)


def test_the_verdict_is_the_mean_of_the_items(found: Evaluation) -> None:
    shares = [np.mean([getattr(i, side).scores["label_accuracy"] for i in found.items]) * 100 for side in ("base", "tuned")]
    assert shares == pytest.approx([found.verdict.base, found.verdict.tuned])


def test_answers_are_those_of_plain_generation(found: Evaluation, tuned: Tuned) -> None:
    prompts = [tuned.model.renderer.prompt_of(e) for e in tuned.held_out]
    with tuned.method.active(tuned.model, False):
        base = generate(tuned.model, prompts, max_tokens=found.max_tokens, stop=tuned.model.renderer.end_tokens)
    assert [i.base.text for i in found.items] == [tuned.model.renderer.decode(g.answer) for g in base]


def test_loss_and_bits_per_byte_equal_a_naive_loop(tuned: Tuned) -> None:
    nats = tokens = size = 0.0
    for row, example in zip(tuned.rows[:4], tuned.held_out, strict=False):
        (path,) = row.sequences
        prompt = len(tuned.model.renderer.prompt_of(example))
        for place in range(prompt, len(path.tokens)):
            before = torch.tensor(path.tokens[:place].astype(np.int64))
            sight = Sight(np.full(place, place), np.arange(place))
            with torch.no_grad():
                state = tuned.model.states(tokens_T=before, positions_T=torch.arange(place), sight=sight)[-1]
            logits = tuned.model.head()(state)
            nats -= float(logits.log_softmax(-1)[int(path.tokens[place])])
            tokens += 1
        size += len(example.messages[-1].content.encode())
    found = evaluate(tuned.model, tuned.method, [], tuned.rows[:4], spec=EvaluateSpec(rows=0))
    assert found.measures["loss"].tuned == pytest.approx(nats / tokens, rel=1e-4)
    assert found.measures["bits_per_byte"].tuned == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_progress_reaches_the_total(tuned: Tuned) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        tuned.model,
        tuned.method,
        tuned.held_out[:6],
        tuned.rows[:6],
        spec=EvaluateSpec(rows=4),
        on_progress=lambda *at: seen.append(at),
    )
    assert seen[-1] == (20, 20)
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


def test_no_generation_judges_bits_per_byte(tuned: Tuned) -> None:
    found = evaluate(tuned.model, tuned.method, tuned.held_out, tuned.rows, spec=EvaluateSpec(rows=0))
    assert found.metric == "bits_per_byte"
    assert "bits per byte (95% interval" in found.verdict.sentence
    assert found.items == []


def test_plain_text_rows_count_in_the_loss_only(tuned: Tuned) -> None:
    text = Example(Source("t.txt", 1), form="text", text="Once upon a time there was a dog.")
    asked, notes = questions(tuned.model, [*tuned.held_out[:3], text], most=10)
    assert len(asked) == 3
    assert notes == ["1 held-out rows hold no answer to generate; they count in the loss."]


def test_prompts_without_room_are_named(tuned: Tuned) -> None:
    long = Example(Source("long.jsonl", 7), messages=[Message("user", "word " * 600), Message("assistant", "yes")])
    asked, notes = questions(tuned.model, [long, tuned.held_out[0]], most=10)
    assert len(asked) == 1
    assert "first long.jsonl row 7" in notes[0]


def test_without_held_out_rows_nothing_is_claimed(tuned: Tuned) -> None:
    found = evaluate(tuned.model, tuned.method, [], [], spec=EvaluateSpec())
    assert found.verdict.better == "none"
    assert "0 rows compared" in found.verdict.sentence


def test_a_mistyped_metric_is_told_at_once(tuned: Tuned) -> None:
    with pytest.raises(SpecError, match=r"Did you mean rouge_l\?"):
        evaluate(tuned.model, tuned.method, tuned.held_out, tuned.rows, spec=EvaluateSpec(metric="rougel"))


def test_label_accuracy_may_be_asked_for_where_answers_are_free_text(tuned: Tuned) -> None:
    few = tuned.held_out[:4]
    found = evaluate(tuned.model, tuned.method, few, tuned.rows[:4], spec=EvaluateSpec(metric="label_accuracy", max_tokens=4))
    assert not found.labels.found
    assert found.metric == "label_accuracy" and found.verdict == found.measures["label_accuracy"]
    assert "whole answers are taken as labels" in found.why


def test_rows_are_taken_evenly_from_the_whole_file(tuned: Tuned) -> None:
    assert [e.source.row for e in spread(tuned.held_out, 4)] == [1001, 1011, 1021, 1031]
    assert spread(tuned.held_out, 100) == tuned.held_out


def test_expected_answers_with_tool_calls_are_in_the_templates_words(tuned: Tuned) -> None:
    plain = Example(Source("a", 1), messages=[Message("user", "Hi"), Message("assistant", "Hello there")])
    assert expected_answer(plain, tuned.model.renderer) == "Hello there"
    pair = Example(Source("a", 1), form="preference", messages=[Message("user", "Hi")], chosen=[Message("assistant", "Good")])
    assert expected_answer(pair, tuned.model.renderer) == "Good"


def test_likelihood_ignores_the_rejected_answer(tuned: Tuned) -> None:
    pair = Example(
        Source("a", 1),
        form="preference",
        messages=[Message("user", "Hi")],
        chosen=[Message("assistant", "yes")],
        rejected=[Message("assistant", "no no")],
    )
    alone = Example(Source("a", 1), messages=[Message("user", "Hi"), Message("assistant", "yes")])
    from .conftest import rows

    both, one = (likelihood(tuned.model, rows(tuned.model, [e])) for e in (pair, alone))
    assert both.nats_R == pytest.approx(one.nats_R)
    assert both.bytes_R == pytest.approx([3.0])
