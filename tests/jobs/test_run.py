"""The main job on a tiny real base: all files, stopping anywhere, going on, doing it again."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import luthier
from luthier.core.errors import DataError, Interrupted, ModelError, NotFound, SpecError, StorageError
from luthier.core.events import Event, Stage, Stepped, Validated
from luthier.core.files import sha256
from luthier.core.spec import Spec
from luthier.inference.chat import Settings
from luthier.jobs import capsule, specs
from luthier.jobs.prepare import DataRefused
from luthier.jobs.rejudge import judge
from luthier.jobs.reproduce import compare, reproduce
from luthier.jobs.result import Run
from luthier.jobs.run import resume
from luthier.store import runs

from .conftest import SHORT, write_rows


def weights(run: Run) -> str:
    return sha256(run.folder / "adapter" / "adapter_model.safetensors")


def stop_at(number: int, how: Callable[[], None]) -> Callable[[Event], None]:
    """A listener that calls `how` when step `number` is done."""

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == number:
            how()

    return listen


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run, made once."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(place / "home"))
        return luthier.tune(write_rows(place / "tickets.jsonl"), model=str(tiny_base), settings=SHORT, out=place / "run")


@pytest.fixture
def tuned(finished: Run, rows: Path, tmp_path: Path) -> Run:
    """A copy of it with its own copy of the data, to be spoiled at will."""
    folder = runs.RunFolder(tmp_path / "run")
    shutil.copytree(finished.folder, folder.path)
    specs.save(finished.spec.model_copy(update={"data": finished.spec.data.model_copy(update={"file": str(rows)})}), folder.spec)
    return Run(folder)


def test_a_run_leaves_every_file_it_promises(tuned: Run, rows: Path) -> None:
    folder = tuned.files
    for path in (
        folder.spec,
        folder.capsule,
        folder.data,
        folder.split,
        folder.ledger,
        folder.steps,
        folder.certificate,
        folder.report,
        folder.card,
    ):
        assert path.stat().st_size > 0, path.name
    assert folder.state()["state"] == "succeeded"
    assert (folder.evaluation / "items.jsonl").is_file()
    assert pq.read_table(folder.ledger).num_rows == 40
    split = json.loads(folder.split.read_text())
    assert sorted(split["train"] + split["valid"]) == list(range(1, 41))
    kinds = [json.loads(line)["kind"] for line in folder.steps.read_text().splitlines()]
    assert (kinds.count("stepped"), kinds.count("validated")) == (6, 2)
    assert tuned.verdict.endswith(".")
    assert tuned.verdict in folder.card.read_text()


def test_its_spec_is_complete_and_its_capsule_names_no_place(tuned: Run, rows: Path, tiny_base: Path) -> None:
    left = [
        f"{section}.{key}" for section in ("model", "train", "evaluate") for key, value in getattr(tuned.spec, section) if value == "auto"
    ]
    assert left == ["evaluate.metric"]
    assert tuned.spec.data.file == str(rows)
    sealed = capsule.read(tuned.files)
    assert sealed["data"]["training"] == {"file": "tickets.jsonl", "bytes": rows.stat().st_size, "sha256": sha256(rows)}
    assert sealed["weights"] == {"adapter_model.safetensors": weights(tuned)}
    assert "/" not in tuned.files.capsule.read_text().replace("Linux x86_64", "").replace("application/", "")


def test_the_result_talks_and_is_found_again(tuned: Run) -> None:
    again = luthier.load(tuned.folder)
    assert again.verdict == tuned.verdict
    few = Settings(max_tokens=6)
    assert again.chat("When do you open?", settings=few) == tuned.chat("When do you open?", settings=few)
    assert isinstance(again.chat("When do you open?", side="base", settings=few), str)
    assert again.conversation().system == "Answer with a label.", "asked as it was tuned"


def test_a_run_done_again_is_equal_and_a_difference_is_told(tuned: Run) -> None:
    assert reproduce(tuned.folder).to_json() == {"same": True, "differing": [], "changed": {}}
    first = capsule.read(tuned.files)
    other = {**first, "weights": {"adapter_model.safetensors": "0"}, "versions": {**first["versions"], "torch": "1.0"}}
    found = compare(first, other)
    assert (found.same, found.differing, found.changed) == (
        False,
        ["adapter_model.safetensors"],
        {"torch": [first["versions"]["torch"], "1.0"]},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_ends_byte_equal(number: int, tuned: Run, rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted, match=f"Stopped after step 3 of 6.*luthier tune --resume {out}") as caught:
        luthier.tune(rows, model=str(tiny_base), settings=SHORT, out=out, listen=stop_at(3, lambda: os.kill(os.getpid(), number)))
    assert caught.value.exit_code == 130
    assert luthier.load(out).files.state()["state"] == "interrupted"
    steps: list[Event] = []
    done = resume(out, listen=steps.append)
    assert [event.step for event in steps if isinstance(event, Stepped)] == [4, 5, 6]
    assert weights(done) == weights(tuned)
    assert done.files.state()["state"] == "succeeded"


def test_a_run_is_resumed_by_one_process_at_a_time(tuned: Run) -> None:
    shutil.rmtree(tuned.folder / "evaluation")
    refused: list[StorageError] = []

    def again(event: Event) -> None:
        if isinstance(event, Stage) and event.name == "evaluate":
            with pytest.raises(StorageError, match="Another process works on this run") as caught:
                resume(tuned.folder)
            refused.append(caught.value)

    assert resume(tuned.folder, listen=again).files.complete
    assert [error.code for error in refused] == ["run_busy"]


def test_the_adapters_of_the_last_passes_are_kept(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    settings = [*SHORT, "data.valid=0", "train.epochs=5", "train.rows_per_step=40"]
    done = luthier.tune(rows, model=str(tiny_base), settings=settings, out=tmp_path / "run")
    assert done.files.kept_passes() == [3, 4, 5]
    kept = {folder.name: sha256(folder / "adapter_model.safetensors") for folder in done.files.passes.iterdir()}
    assert sorted(kept) == ["step-000003", "step-000004", "step-000005"]
    assert kept["step-000005"] == weights(done) != kept["step-000004"], "in the layout of the result"


def test_a_second_signal_leaves_at_once(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="Stopped; everything that was complete is saved"):
        luthier.tune(rows, model=str(tiny_base), settings=SHORT, out=tmp_path / "run", listen=stop_at(5, twice))
    assert runs.find(str(tmp_path / "run")).last_checkpoint() == (tmp_path / "run" / "checkpoints" / "step-000004")


def test_a_run_stopped_while_it_is_judged_does_not_train_again(tuned: Run, rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, Stage) and event.name == "evaluate":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        luthier.tune(rows, model=str(tiny_base), settings=SHORT, out=tmp_path / "stopped", listen=listen)
    heard: list[Event] = []
    done = resume(tmp_path / "stopped", listen=heard.append)
    assert not [event for event in heard if isinstance(event, Stepped | Validated)]
    assert done.verdict == tuned.verdict
    heard.clear()
    assert resume(tmp_path / "stopped", listen=heard.append).verdict == done.verdict
    assert len(heard) == 1, "a finished run says so and does nothing"


def test_changed_data_is_not_mixed_with_old(tuned: Run, rows: Path) -> None:
    tuned.files.mark("interrupted")
    rows.write_text(rows.read_text().replace("parcel", "packet"))
    with pytest.raises(DataError, match=r"training file has changed since this run began.*begin a new run"):
        resume(tuned.folder)
    rows.unlink()
    with pytest.raises(DataError, match="training file of this run is gone"):
        resume(tuned.folder)
    assert tuned.files.state()["error"]["code"] == "data_changed"


def test_an_edited_spec_or_another_base_is_not_mixed_with_the_old(tuned: Run, tiny_base: Path, tmp_path: Path) -> None:
    tuned.files.mark("interrupted")
    spec, base = tuned.spec, tmp_path / tiny_base.name
    shutil.copytree(tiny_base, base)
    specs.save(spec.model_copy(update={"train": spec.train.model_copy(update={"learning_rate": 0.5})}), tuned.files.spec)
    with pytest.raises(SpecError, match=r"spec\.yaml has changed since this run began.*luthier tune --config"):
        resume(tuned.folder)
    specs.save(spec.model_copy(update={"model": spec.model.model_copy(update={"name": str(base)})}), tuned.files.spec)
    assert resume(tuned.folder).verdict == tuned.verdict, "the same base in another place is the same base"
    tuned.files.mark("interrupted")
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="The base has changed since this run began"):
        resume(tuned.folder)


def test_choices_made_for_the_user_are_kept_and_shown(tuned: Run) -> None:
    texts = [note["text"] for note in json.loads(tuned.files.notes.read_text())]
    assert len(texts) == len(set(texts))
    derived = next(text for text in texts if text.startswith("learning_rate 0.003: "))
    assert derived in tuned.files.report.read_text()
    assert any("The same held-out rows chose the step" in note for note in tuned.summary["notes"])


def test_a_run_without_held_out_rows_is_certified_all_the_same(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    run = luthier.tune(rows, model=str(tiny_base), settings=[*SHORT, "train.max_steps=1", "data.valid=0"], out=tmp_path / "run")
    assert len(json.loads(run.files.certificate.read_text())["probes"]) == 20
    assert "Nothing can be said" in run.verdict and not [note for note in run.summary["notes"] if "chose the step" in note]


def test_bad_rows_stop_the_run_before_anything_is_made(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    lines = rows.read_text().splitlines()
    lines[6] = '{"messages": [{"role": "user", "content": "Hello?"}]}'
    lines[8] = "{broken"
    rows.write_text("\n".join(lines))
    with pytest.raises(DataRefused, match=r"(?s)2 errors.*luthier data check") as caught:
        luthier.tune(rows, model=str(tiny_base), out=tmp_path / "run")
    assert "row 7" in str(caught.value)
    assert {problem["row"] for problem in caught.value.to_json()["report"]["problems"] if problem["severity"] == "error"} == {7, 9}
    assert caught.value.exit_code == 1
    assert not (tmp_path / "run").exists()


def test_full_tuning_and_a_held_out_file(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(rows.read_text().replace("Order", "Number"))
    done = luthier.tune(
        rows, model=str(tiny_base), method="full", data={"valid": str(held)}, settings=[*SHORT, "train.max_steps=2"], out=tmp_path / "run"
    )
    assert (done.folder / "model" / "model.safetensors").is_file()
    assert done.summary["rows"] == 40
    assert isinstance(luthier.load(done.folder).chat("Hello?", side="base", settings=Settings(max_tokens=4)), str)


def test_pairs_teach_their_chosen_answers_only(tiny_base: Path, tmp_path: Path) -> None:
    file, heard = tmp_path / "pairs.jsonl", list[Event]()
    lines = [(f"Question {i} about things?", f"Fine {i}.", f"Wrong, quite wrong {i}.") for i in range(40)]
    file.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), line, strict=True))) + "\n" for line in lines))
    run = luthier.tune(file, model=str(tiny_base), settings=[*SHORT, "train.max_steps=1"], out=tmp_path / "run", listen=heard.append)
    assert any("sft learns the chosen one and does not read the rejected one" in getattr(event, "text", "") for event in heard)
    learned = pq.read_table(run.files.ledger)["learned"].to_pylist()
    answers = [len(run.model.renderer.encode(chosen)) + 1 for _, chosen, _ in lines]
    assert sorted(learned) == sorted(answers), "each answer and its end token, of the chosen side alone"


def test_what_only_the_model_or_the_rows_refute_leaves_no_folder(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    for setting in ("method.targets=[nowhere]", "method.targets=[]"):
        with pytest.raises(SpecError, match=r"method\.targets"):
            luthier.tune(rows, model=str(tiny_base), settings=[*SHORT, setting], out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    first = rows.read_text().splitlines()[0]
    rows.write_text("\n".join([first] * 20))
    with pytest.raises(DataError, match="cannot be split"):
        luthier.tune(rows, model=str(tiny_base), settings=SHORT)
    assert not list(runs.listed())


def test_an_occupied_out_is_told_before_the_rows_are_read(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    with pytest.raises(SpecError, match="A file of this name exists"):
        luthier.tune(rows, model=str(tiny_base), out=rows, listen=heard.append)
    assert heard == []


@pytest.mark.parametrize("lost", ["adapter", "certificate.json", "evaluation/summary.json"])
def test_a_finished_run_that_lost_a_part_makes_it_again(lost: str, tuned: Run) -> None:
    before, path = weights(tuned), tuned.folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert weights(resume(tuned.folder)) == before
    assert path.exists()


def test_a_full_disk_is_told_by_the_file_that_found_no_room(
    rows: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: runs.RunFolder, *state: object, **facts: object) -> None:
        raise StorageError("No room.", where="state.json")

    def fill() -> None:
        monkeypatch.setattr(runs.RunFolder, "mark", full)
        raise StorageError("No room.", where="checkpoints")

    with pytest.raises(StorageError) as caught:
        luthier.tune(rows, model=str(tiny_base), settings=SHORT, out=tmp_path / "run", listen=stop_at(3, fill))
    assert caught.value.where == "checkpoints"


def test_what_is_not_there(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(SpecError, match="No file of examples was given"):
        luthier.tune()
    with pytest.raises(NotFound, match="no such file of examples"):
        luthier.tune(tmp_path / "none.jsonl", model=str(tiny_base))
    with pytest.raises(NotFound, match=r"There is no model 'luthier-minni'.*Did you mean luthier-mini"):
        luthier.tune(tmp_path / "none.jsonl", model="luthier-minni")


def test_a_run_without_weights_says_how_to_finish_it(tuned: Run) -> None:
    shutil.rmtree(tuned.folder / "adapter")
    tuned.files.mark("interrupted")
    with pytest.raises(NotFound, match=r"no trained weights yet.*luthier tune --resume"):
        luthier.load(tuned.folder).chat("Hello?")


def test_a_spec_file_of_a_run_is_re_runnable(tuned: Run, tmp_path: Path) -> None:
    spec = specs.gather(config=tuned.files.spec)
    assert isinstance(spec, Spec)
    assert spec.fingerprint() == tuned.spec.fingerprint()


def test_a_run_is_judged_by_other_rows_and_learned_ones_are_told(tuned: Run, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(rows.read_text().replace("Order", "Number").splitlines()[:5]))
    found, folder = judge(tuned, other, rows=2)
    assert (found.rows, len(found.items)) == (5, 2)
    assert (folder / "evaluation" / "summary.json").is_file()
    assert folder.parent == tuned.folder / "evaluations"
    assert not [note for note in found.notes if "learned by this run" in note]
    flattered, _ = judge(tuned, rows, rows=2)
    assert any("of the 40 rows were learned by this run: the comparison flatters it" in note for note in flattered.notes)


def test_a_packed_base_is_tuned_by_lora_and_refused_by_full(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    packed = (*SHORT, "model.dtype=int8", "train.max_steps=1")
    with pytest.raises(SpecError, match=r"int8 wants a method that works on packed weights, and method full does not\..*method=lora"):
        luthier.tune(rows, model=str(tiny_base), method="full", settings=packed, out=tmp_path / "full")
    run = luthier.tune(rows, model=str(tiny_base), settings=packed, out=tmp_path / "run")
    assert run.spec.model.dtype == "int8"
    assert luthier.load(run.folder).chat("Hello?", settings=Settings(max_tokens=2)) == run.chat("Hello?", settings=Settings(max_tokens=2))
