"""One Spec from three tongues: YAML, ``--set``, Python."""

from pathlib import Path

import pytest

from luthier.core.errors import NotFound, SpecError
from luthier.jobs import specs


def test_defaults_are_complete_and_can_be_run_again(tmp_path: Path) -> None:
    spec = specs.gather(data="tickets.jsonl")
    assert "rank" in spec.method.options, "the owner's defaults are spelled out"
    specs.save(spec, tmp_path / "spec.yaml")
    assert specs.load(tmp_path / "spec.yaml") == spec
    assert specs.gather(config=tmp_path / "spec.yaml").fingerprint() == spec.fingerprint()


def test_set_wins_over_words_wins_over_yaml(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("data: rows.csv\nmethod: {name: lora, rank: 4}\ntrain: {epochs: 2, learning_rate: 5e-4}\n")
    spec = specs.gather(config=file, settings=["method.rank=32", "train.seed=7"], train={"epochs": 3})
    assert (spec.data.file, spec.method.options["rank"], spec.train.epochs, spec.train.seed) == ("rows.csv", 32, 3, 7)
    assert spec.train.learning_rate == 5e-4, "YAML 1.1 would read 5e-4 as text"


def test_three_tongues_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("data: rows.csv\nmodel: luthier-mini\nmethod: {rank: 4}\nquality: draft\n")
    by_yaml = specs.gather(config=file)
    by_words = specs.gather(data="rows.csv", model="luthier-mini", method={"name": "lora", "rank": 4}, quality="draft")
    by_set = specs.gather(settings=["data=rows.csv", "model.name=luthier-mini", "method.rank=4", "quality=draft"])
    assert by_yaml.fingerprint() == by_words.fingerprint() == by_set.fingerprint()


def test_another_method_does_not_inherit_the_options_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("method: {name: lora, rank: 4}\n")
    spec = specs.gather(config=file, method="freeze", settings=["method.frozen=2"])
    assert spec.method.options == {"frozen": 2, "moving": []}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.rnak=8", "no setting 'method.rnak'.*Did you mean rank"),
        ("train.epoch=8", "no setting 'train.epoch'.*Did you mean epochs"),
        ("trian.epochs=8", "no setting 'trian'.*Did you mean train"),
        ("train.epochs=-1", "train.epochs.*does not do.*greater than 0"),
        ("method.rank=many", "method.rank = 'many' does not do"),
        ("method=lroa", "no method called 'lroa'.*Did you mean lora"),
        ("objective=stf", "no objective called 'stf'.*Did you mean sft"),
        ("quality=fine", "quality.*does not do"),
        ("epochs", "--set wants key=value, not 'epochs'"),
        ("train.epochs=[1", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest(setting: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        specs.gather(data="rows.csv", settings=[setting])
    assert caught.value.exit_code == 2


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such spec file"):
        specs.gather(config=tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("train: {epochs: [")
    with pytest.raises(SpecError, match="not a YAML file"):
        specs.gather(config=tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- one")
    with pytest.raises(SpecError, match="holds sections"):
        specs.gather(config=tmp_path / "list.yaml")


def test_files_become_absolute_so_that_a_run_resumes_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "luthier-mini").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = specs.gather(data="rows.jsonl")
    assert spec.data.file == str((tmp_path / "rows.jsonl").resolve())
    assert spec.model.name == "luthier-mini", "a folder that is no model does not hide a name"


def test_an_objective_that_says_what_is_learned_is_obeyed() -> None:
    assert specs.gather(data="rows.txt").data.learn == "answers"
    assert specs.gather(data="rows.txt", objective="pretrain").data.learn == "everything"
    with pytest.raises(SpecError, match=r"data\.learn = 'last_answer' does not do: objective pretrain learns everything"):
        specs.gather(data={"file": "rows.txt", "learn": "last_answer"}, objective="pretrain")


def test_a_mistyped_metric_is_told_before_anything_is_spent() -> None:
    with pytest.raises(SpecError, match=r"no metric called 'exact_mach'.*Did you mean exact_match"):
        specs.gather(data="rows.csv", evaluate={"metric": "exact_mach"})


def test_a_wrong_value_is_named_as_it_was_written() -> None:
    for setting in ("method.unfreeze=abc", "train.epochs=abc"):
        with pytest.raises(SpecError, match=rf"^{setting.replace('=abc', '')} = 'abc' does not do"):
            specs.gather(data="rows.csv", method="full", settings=[setting])
