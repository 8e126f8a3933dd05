"""Runs with a head: judged against what is usual and the base, certified, loaded, merged, asked."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from luthier.cli.main import dispatch
from luthier.cli.verbs import _outcome as outcome
from luthier.core.errors import DataError, ModelError, ResultError, SpecError
from luthier.data.read import read
from luthier.evaluation import certificate
from luthier.evaluation.agreement import agreement
from luthier.evaluation.calibration import error, temperature
from luthier.evaluation.spans import spans
from luthier.evaluation.verdict import resampled
from luthier.export import export
from luthier.jobs.rejudge import judge
from luthier.jobs.result import Run
from luthier.jobs.run import load, tune
from luthier.models.load import load_folder
from luthier.objectives.predict import _split

PICTURE = "data:image/png;base64," + base64.b64encode((Path(__file__).parents[2] / "docs/pictures/report.png").read_bytes()).decode()
SETTINGS = ["train.epochs=8", "train.rows_per_step=8", "train.learning_rate=1e-2", "model.dtype=float32", "evaluate.rows=12"]


@pytest.fixture(scope="module")
def tickets(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on rows of three labels, one rarer, told by one word."""
    folder, dice = tmp_path_factory.mktemp("tickets"), random.Random(0)
    words = {"refund": "money", "parcel": "parcel", "broken": "broken"}
    rows = []
    for i in range(90):
        label = dice.choice(["refund", "refund", "parcel", "broken"])
        rows.append({"text": f"My {words[label]} {words[label]} again, number {i}.", "label": label})
    (folder / "tickets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder / "home"))
        data = {"valid": 0.3}
        return tune(folder / "tickets.jsonl", model=str(tiny_base), objective="predict", data=data, settings=SETTINGS, out=folder / "run")


def test_the_verdict_is_against_the_better_of_what_is_usual_and_the_base(tickets: Run) -> None:
    measures, metric = tickets.summary["measures"], tickets.summary["metric"]
    assert {"accuracy", "macro_f1", "accuracy_over_base", "macro_f1_over_base"} <= measures.keys()
    assert tickets.summary["verdict"]["better"] == "tuned"
    assert measures[metric]["base"] == max(measures["accuracy"]["base"], measures["accuracy_over_base"]["base"])
    assert "points of accuracy over" in tickets.verdict
    items = [json.loads(line) for line in (tickets.folder / "evaluation" / "items.jsonl").read_text().splitlines()]
    assert len(items) == 12
    assert items[0]["tuned"]["text"].startswith(items[0]["expected"])
    assert any(note.startswith("Probabilities: temperature") for note in tickets.summary["notes"])
    assert tickets.summary["tables"]["tuned"]["rows"] == ["broken", "parcel", "refund"]


def test_a_finished_run_is_asked_with_its_head_and_says_how_sure_it_is(tickets: Run) -> None:
    run = load(tickets.folder)
    first, second = run.predict(["My parcel parcel again, number 7.", "My money money again, number 400."])
    assert (first.said, second.said) == ("parcel", "refund")
    assert sum(first.sure.values()) == pytest.approx(1, abs=1e-5)
    assert max(first.sure, key=lambda label: first.sure[label]) == "parcel"


def test_rows_are_asked_as_a_file_has_them_or_refused_with_their_place(tickets: Run) -> None:
    run = load(tickets.folder)
    text = "My parcel parcel again, number 7."
    alone, field, chat, prompt = run.predict(
        [text, {"text": text}, {"messages": [{"role": "user", "content": text}]}, {"prompt": text, "completion": "never read"}]
    )
    assert alone == field == chat == prompt
    wrong: list[tuple[Any, str, str]] = [
        ({"txet": text}, "predict row 2: The row has fields that say nothing together: txet", "unknown_format"),
        ({"text": text, "pairs": "x"}, "predict row 2 field pairs: There is no field 'pairs'. Did you mean pair?", "unknown_field"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "predict row 2 field messages.0.role: There is no role", "wrong_role"),
        ({"image": "none.png"}, "predict row 2 field image: There is no file", "no_picture"),
        ({"image": PICTURE}, "predict row 2: The row has a picture or a sound, which this model does not take in", "unsupported_media"),
        ("word " * 20_000, "predict row 2: It has .* tokens; .* reads", "prompt_too_long"),
    ]
    for row, message, code in wrong:
        with pytest.raises(DataError, match=message) as caught:
            run.predict([text, row])
        assert caught.value.code == code


def test_the_verb_asks_the_head(tickets: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text, name = "My parcel parcel again, number 7.", str(tickets.folder)
    assert dispatch(["predict", name, text, json.dumps({"text": text})]) == 0
    first, second = capsys.readouterr().out.splitlines()
    label, sure, asked = first.split("\t")
    assert (label, asked) == ("parcel", text) and 0.3 < float(sure) <= 1
    assert second.split("\t")[:2] == [label, sure]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n\nMy money money again, number 400.\n"))
    assert dispatch(["predict", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["said"] for each in found["predictions"]] == ["parcel", "refund"]
    with pytest.raises(DataError, match=r"predict row 1: .*JSON"):
        dispatch(["predict", name, '{"text": '])


def test_what_to_do_next_is_what_works(tickets: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome.show(tickets)
    told = capsys.readouterr().out
    verbs = [line.removeprefix("Next:").strip() for line in told[told.index("Next:") :].splitlines()]
    name = tickets.files.name
    assert verbs == [
        f"luthier predict {name} TEXT_OR_ROW",
        f"luthier evaluate {name} --data OTHER_ROWS",
        f"luthier export {name} --to merged --out FOLDER",
    ]
    assert dispatch(["export", str(tickets.folder), "--to", "merged", "--out", str(tmp_path / "out")]) == 0
    assert "luthier chat" not in capsys.readouterr().out


def test_other_rows_are_judged_with_the_head(tickets: Run, tmp_path: Path) -> None:
    rows = [{"text": f"My broken broken again, number {1000 + i}.", "label": "broken"} for i in range(12)]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, _ = judge(load(tickets.folder), tmp_path / "more.jsonl", out=tmp_path / "out")
    assert found.measures["accuracy"].n == 12
    assert found.measures["accuracy"].tuned > 90


def test_the_certificate_notices_another_head_an_ignored_adapter_and_a_lost_head(tickets: Run, tmp_path: Path) -> None:
    run = load(tickets.folder)
    assert certificate.replay(run.model, run.method, run.folder).probes == 20
    assert json.loads(run.files.certificate.read_text())["told_apart"]
    with run.method.active(run.model, False), pytest.raises(ResultError, match="The head does not say what is certified"):
        certificate.replay(run.model, None, run.folder)
    run.model.predictor.weight.data += 1.0
    with pytest.raises(ResultError, match="The head does not say what is certified") as caught:
        certificate.replay(run.model, run.method, run.folder)
    assert caught.value.code == "certificate"
    shutil.copytree(tickets.folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "adapter" / "predictor")
    with pytest.raises(ModelError, match="The head of this model cannot be read"):
        _ = load(tmp_path / "copy").model


def test_merged_and_exported_it_keeps_its_head(tickets: Run, tmp_path: Path) -> None:
    run = load(tickets.folder)
    export("merged", run.model, run.method, tmp_path / "merged")
    merged = load_folder(tmp_path / "merged", dtype="float32")
    assert certificate.replay(merged, None, tickets.folder).first_choices == 1.0


def test_a_run_that_writes_has_no_head_to_ask(examples: Path, tiny_base: Path) -> None:
    run = tune("tickets.jsonl", model=str(tiny_base), settings=["train.max_steps=1", "evaluate.rows=0"])
    with pytest.raises(SpecError, match="has no head to ask"):
        run.predict(["Hello"])


KINDS: dict[str, list[Any]] = {
    "number": [str(float(i % 7)) + ("5" if i % 2 else "") for i in range(60)],
    "ordinal": [str(1 + i % 3) for i in range(60)],
    "labels": [", ".join(["hot", "wet", "dry"][: 1 + i % 3]) for i in range(60)],
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_other_kinds_of_heads_run(examples: Path, tiny_base: Path, kind: str) -> None:
    rows = [{"prompt": f"{'good ' * (i % 7)}{'bad ' * (i % 3)}{i}", "completion": text} for i, text in enumerate(KINDS[kind])]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tune("rows.jsonl", model=str(tiny_base), objective={"name": "predict", "kind": kind}, data={"valid": 0.3}, settings=SETTINGS)
    names = {"number": ["error"], "ordinal": ["accuracy", "steps"], "labels": ["accuracy", "macro_f1"]}[kind]
    assert set(names) <= run.summary["measures"].keys()
    assert run.summary["metric"].startswith(names[0])
    assert run.predict(["good good good 3"])[0].said is not None


def test_a_tag_for_every_word(examples: Path, tiny_base: Path) -> None:
    dice, rows = random.Random(0), []
    names = ["Anna", "Oslo", "Bern", "Lena"]
    for _ in range(80):
        words = [dice.choice([*names, "flew", "to", "and", "home", "then", "back"]) for _ in range(dice.randint(3, 7))]
        rows.append({"tokens": words, "tags": ["B-NAME" if word in names else "O" for word in words]})
    Path("tagged.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tune("tagged.jsonl", model=str(tiny_base), objective="predict", data={"valid": 0.3}, settings=SETTINGS)
    assert run.spec.objective.options["kind"] == "tags"
    assert run.summary["metric"] == "span_f1"
    assert run.summary["verdict"]["better"] == "tuned"
    assert run.summary["measures"]["span_f1"]["base"] == 0.0, "always saying O finds no span"
    items = [json.loads(line) for line in (run.folder / "evaluation" / "items.jsonl").read_text().splitlines()]
    assert set(items[0]["expected"].split(", ")) <= {"O", "B-NAME"}
    one, same = run.predict(["Anna flew to Oslo", {"tokens": ["Anna", "flew", "to", "Oslo"]}])
    assert one == same and one.said == ["B-NAME", "O", "O", "B-NAME"] and one.sure == {}
    assert certificate.replay(load(run.folder).model, load(run.folder).method, run.folder).tokens > 20


LISTS = [
    ({"text": "warm rain", "labels": ["hot", "wet"]}, "hot, wet"),
    ({"text": "warm rain", "labels": ["hot, very", "wet"]}, '["hot, very","wet"]'),
    ({"text": "warm rain", "label": 3.5}, "3.5"),
    ({"text": "warm rain", "labels": []}, "[]"),
]


@pytest.mark.parametrize(("row", "said"), LISTS)
def test_several_labels_and_numbers_are_read(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(3)))
    example: Any = next(iter(read(tmp_path / "rows.jsonl")))
    assert example.messages[-1].content == said
    assert _split(said, "labels") == row.get("labels", ["3.5"])


def test_words_without_a_tag_each_are_refused(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "O"]}, {"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": ["a b"], "tags": ["O"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found: list[Any] = list(read(tmp_path / "rows.jsonl"))
    assert [getattr(item, "code", "") for item in found] == ["", "unequal_lists", "bad_word"]
    assert "2 words and 1 tags" in found[1].message


def test_reward_models_are_judged_by_pairs(examples: Path, tiny_base: Path) -> None:
    run = tune("pairs.jsonl", model=str(tiny_base), objective="reward", data={"valid": 0.3}, settings=SETTINGS)
    assert run.summary["metric"] == "pair_accuracy"
    assert run.summary["verdict"]["better"] == "tuned"
    assert "over a coin" in run.verdict
    row = json.loads(Path("pairs.jsonl").read_text().splitlines()[0])
    better, worse = run.predict([{"prompt": row["prompt"], "completion": row[side]} for side in ("chosen", "rejected")])
    assert better.said > worse.said
    (turns,) = run.predict([{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]}])
    assert turns.said == pytest.approx(better.said)
    for asked in ("Hello", {"messages": [{"role": "user", "content": "Hello"}]}):
        with pytest.raises(DataError, match="A head that scores answers wants one"):
            run.predict([asked])


def test_macro_f1_is_scikit_learns() -> None:
    dice = np.random.default_rng(0)
    labels = ("a", "b", "c", "d")
    right, base, tuned = (dice.choice(labels, 200).tolist() for _ in range(3))
    tuned = [r if dice.random() < 0.5 else t for r, t in zip(right, tuned, strict=True)]
    score = agreement("class", labels)[1]
    interval, (left, other) = resampled(score.statistic(right, base, tuned), 200, 150, resamples=200)
    assert left == pytest.approx(100 * f1_score(right, base, average="macro"))
    assert other == pytest.approx(100 * f1_score(right, tuned, average="macro"))
    assert interval.low < other - left < interval.high
    several = [[l for l in labels if dice.random() < 0.4] for _ in range(100)]
    said = [[l for l in labels if dice.random() < 0.4] for _ in range(100)]
    matrices = [np.array([[l in row for l in labels] for row in side]) for side in (several, said)]
    score = agreement("labels", labels)[1]
    assert score.statistic(several, said, said)(np.arange(100))[0] == pytest.approx(100 * f1_score(*matrices, average="macro"))


SPANS = [
    (["B-PER", "I-PER", "O", "B-LOC"], {("PER", 0, 2), ("LOC", 3, 4)}),
    (["B-PER", "B-PER", "I-LOC", "O"], {("PER", 0, 1), ("PER", 1, 2), ("LOC", 2, 3)}),
    (["I-PER", "I-PER", "I-ORG"], {("PER", 0, 2), ("ORG", 2, 3)}),
    (["O", "O"], set()),
    (["NOUN", "NOUN", "O"], {("NOUN", 0, 1), ("NOUN", 1, 2)}),
    ([], set()),
]


@pytest.mark.parametrize(("tags", "found"), SPANS)
def test_spans_are_read_as_conll_does(tags: list[str], found: set[Any]) -> None:
    assert spans(tags) == found


def test_a_temperature_makes_an_overconfident_head_honest() -> None:
    dice = np.random.default_rng(1)
    true_logits = dice.normal(size=(4000, 3))
    p = np.exp(true_logits) / np.exp(true_logits).sum(1, keepdims=True)
    targets = np.array([dice.choice(3, p=row) for row in p])
    outputs = (3.0 * true_logits).astype(np.float32)  # three times too sure
    found = temperature("class", outputs, targets)
    assert found == pytest.approx(3.0, rel=0.1)
    right = outputs.argmax(1) == targets
    sure = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (outputs.astype(float), outputs / found)]
    assert error(sure[1].max(1), right) < 0.03 < 0.1 < error(sure[0].max(1), right)
    assert temperature("class", outputs[:10], targets[:10]) == 1.0, "ten rows say too little"
    assert temperature("number", outputs[:, :1], targets) == 1.0
