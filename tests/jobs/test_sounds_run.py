"""Whole runs on spoken digits: a classifier of sounds and a transcriber, tuned, judged, certified, loaded, gone on with, exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli.main import dispatch
from luthier.core.errors import DataError, Interrupted
from luthier.core.events import Event, Stepped
from luthier.core.spec import DataSpec
from luthier.data.check import check
from luthier.evaluation import certificate
from luthier.export import export
from luthier.inference.chat import Conversation
from luthier.jobs.rejudge import judge
from luthier.jobs.result import Run
from luthier.jobs.run import load, resume, tune
from luthier.models.load import load_folder
from tiny_families import saved

WORDS = ["zero", "one", "two"]
SETTINGS = ["train.epochs=2", "model.dtype=float32", "evaluate.rows=9", "data.valid=0.3"]

pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def digits(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, each said ten times by several people."""
    recordings = shared / "data" / "au_fsdd_sample" / "recordings"
    if not recordings.is_dir():
        pytest.skip("no spoken digits among the shared data")
    folder = tmp_path_factory.mktemp("digits")
    said = [(file, WORDS[int(file.name[0])]) for n in range(3) for file in sorted(recordings.glob(f"{n}_*.wav"))[:30:3]]
    for name, field in (("labels", "label"), ("transcripts", "transcription")):
        rows = [{"audio": str(file), field: word} for file, word in said]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def classified(digits: Path) -> Run:
    """Full tuning: the weights on disk have other names than in memory, and the head says other labels than the base's did."""
    base = saved("ast", digits)
    return tune(digits / "labels.jsonl", model=str(base), objective="predict", method="full", settings=SETTINGS, out=digits / "classified")


@pytest.fixture(scope="module")
def transcribed(digits: Path) -> Run:
    base = saved("whisper", digits)
    return tune(digits / "transcripts.jsonl", model=str(base), method="lora", settings=SETTINGS, out=digits / "transcribed")


def test_a_classifier_of_sounds_is_judged_certified_and_loaded(classified: Run, digits: Path) -> None:
    assert {"accuracy", "macro_f1"} <= classified.summary["measures"].keys()
    run = load(classified.folder)
    assert certificate.replay(run.model, run.method, run.folder).probes == 9
    found, _ = judge(run, digits / "labels.jsonl", out=digits / "again")
    assert found.measures["accuracy"].n == 30
    export("merged", run.model, run.method, digits / "merged-classifier")
    assert certificate.replay(load_folder(digits / "merged-classifier", dtype="float32"), None, run.folder).first_choices == 1.0


def test_a_classifier_of_sounds_is_asked_by_hand(classified: Run, digits: Path) -> None:
    row = json.loads((digits / "labels.jsonl").read_text().splitlines()[0])
    run = load(classified.folder)
    with_label, without = run.predict([row, {"audio": row["audio"]}])
    assert with_label == without and without.said in WORDS
    with pytest.raises(DataError, match="predict row 1: This model hears one sound and nothing else"):
        run.predict(["seven"])


def test_a_transcriber_is_judged_by_what_it_writes_and_by_choice(transcribed: Run, digits: Path) -> None:
    measures = transcribed.summary["measures"]
    assert measures["bits_per_byte"]["tuned"] < measures["bits_per_byte"]["base"]
    assert {"chrf", "choice_accuracy"} <= measures.keys(), "few labels are also chosen, each heard with its sound"
    run = load(transcribed.folder)
    assert certificate.replay(run.model, run.method, run.folder).tokens > 6
    export("merged", run.model, run.method, digits / "merged-transcriber")
    assert certificate.replay(load_folder(digits / "merged-transcriber", dtype="float32"), None, run.folder).probes == 9


def test_a_run_that_was_cut_off_goes_on(transcribed: Run, digits: Path) -> None:
    """Byte equal to the run that was not."""

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        tune(digits / "transcripts.jsonl", model=str(digits / "whisper"), method="lora", settings=SETTINGS, out=digits / "cut", listen=stop)
    whole, again = (run.files.weights / "adapter_model.safetensors" for run in (transcribed, resume(digits / "cut")))
    assert again.read_bytes() == whole.read_bytes()


def test_it_is_planned(classified: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", str(digits / "labels.jsonl"), "--model", str(digits / "ast"), "--method", "full", "--set", "objective.name=predict"]
    assert dispatch([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]


def test_neither_is_talked_to(classified: Run, transcribed: Run) -> None:
    assert (classified.answers_to, transcribed.answers_to) == ("predict", "")
    for run in (classified, transcribed):
        talk: Conversation = load(run.folder).conversation()
        with pytest.raises(DataError, match="hears one sound and nothing else"):
            list(talk.ask("Hello?"))


def test_no_hash_of_a_recording_passes_for_a_card_number(digits: Path) -> None:
    found = check(digits / "labels.jsonl", data=DataSpec())
    assert {problem.code for problem in found.problems} == {"resampled"}
