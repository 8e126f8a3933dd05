"""`luthier plan` and the plan that every run begins with, on a real small model."""

import json

import pytest

from luthier.cli.main import dispatch
from luthier.core.errors import ResultError
from luthier.core.events import Note
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.jobs import planning
from luthier.jobs.run import train_only
from luthier.jobs.specs import gather


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


@pytest.fixture
def days(tmp_path):
    rows = [[{"role": "user", "content": f"Tom ran on day {i}."}, {"role": "assistant", "content": f"It was day {i}."}] for i in range(40)]
    path = tmp_path / "days.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def plan(capsys, days, shared, *more):
    code = dispatch(["plan", str(days), "--model", str(shared / "models/stories260k"), *more, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_parts_add_up_and_nothing_is_written(capsys, days, shared):
    code, found = plan(capsys, days, shared, "--method", "full", "--set", "model.dtype=float32")
    taken = found["taken"]
    assert (code, found["fits"]) == (0, True)
    assert taken["peak"] == sum(taken[part] for part in ("program", "weights", "trained", "moments", "gradients", "activations", "working"))
    weights = taken["trained"]
    assert 260_000 * 4 <= weights <= 300_000 * 4, "fp32 masters are the weights"
    assert (taken["weights"], taken["moments"], taken["gradients"]) == (0, 2 * weights, weights)
    assert found["spec"]["train"]["optimiser"] == "auto", "the plan is shown, not written down"
    assert not (days.parent / "home" / "runs").exists()


def test_bytes_are_fewer_for_leaner_ways(capsys, days, shared):
    sizes = {}
    for kind in ("adamw", "adamw8bit", "layerwise"):
        settings = ["--set", f"train.optimiser={kind}", "--set", "model.dtype=bfloat16"]
        _, found = plan(capsys, days, shared, "--method", "full", *settings)
        taken = found["taken"]
        parameters = taken["weights"] / 2
        sizes[kind] = (taken["trained"] + taken["moments"] + taken["gradients"]) / parameters
    assert sizes["adamw"] == pytest.approx(12, rel=0.05)
    assert sizes["adamw8bit"] == sizes["layerwise"] == pytest.approx(4, rel=0.05)


def test_a_plan_that_does_not_fit_says_what_would(capsys, days, shared):
    code, found = plan(capsys, days, shared, "--method", "full", "--memory", "0.01")
    assert (code, found["fits"]) == (1, False)
    assert len(found["weighed"]) >= 6
    assert dispatch(["plan", str(days), "--model", str(shared / "models/stories260k"), "--memory", "0.01"]) == 1
    said = capsys.readouterr().out
    assert "Nothing fits into 10 MiB." in said
    assert "activations" in said


def test_a_run_that_does_not_fit_is_refused_before_it_starts(days, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "memory", lambda: (0, 0))
    spec = gather(data={"file": str(days)}, model=str(shared / "models/stories260k"), train={"max_steps": 2})
    with pytest.raises(ResultError, match=r"needs at least [\d,]+ MiB of memory .*, but only [\d,]+ MiB may be used") as caught:
        train_only(spec, out=tmp_path / "run")
    assert caught.value.code == "memory_short"


def test_a_run_that_does_not_fit_as_asked_is_changed_and_says_so(days, shared, tmp_path, monkeypatch):
    real = planning.weigh

    def tight(spec, base, rows, *, program, available):
        wide = real(spec, base, rows, program=program, available=available)
        return real(spec, base, rows, program=program, available=wide.weighed[0].peak - 1)

    monkeypatch.setattr(planning, "weigh", tight)
    heard = []
    spec = gather(data={"file": str(days)}, model=str(shared / "models/stories260k"), method="full", train={"max_steps": 2})
    folder = train_only(spec, out=tmp_path / "run", listen=heard.append)
    changes = [e.text for e in heard if isinstance(e, Note) and "changed to" in e.text]
    assert len(changes) == 1
    assert changes[0].startswith(f"adamw, {TOKENS_PER_PACK:,} tokens a forest would take")
    assert any("The plan foresaw" in e.text and "the rehearsal found" in e.text for e in heard if isinstance(e, Note))
    from luthier.jobs import specs

    train = specs.load(folder.spec).train
    assert (train.optimiser, train.recompute, train.tokens_per_pack) != ("adamw", False, TOKENS_PER_PACK)
    assert "auto" not in (train.optimiser, train.recompute, train.tokens_per_pack)
