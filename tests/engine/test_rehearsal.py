"""The rehearsal changes nothing, foresees, adapts, and refuses."""

import re

import pytest
import torch

from luthier.core.errors import ResultError, StorageError
from luthier.core.spec import TrainSpec
from luthier.engine.rehearsal import rehearse
from luthier.engine.session import Session
from luthier.methods import full, lora
from luthier.objectives import sft

TRAIN = TrainSpec(epochs=2, rows_per_step=4, learning_rate=5e-3)


@pytest.fixture
def session(tiny_model, bushy_rows):
    model, method = tiny_model(), lora.Method(lora.Options(rank=4, dropout=0.1))
    method.attach(model, seed=5)
    return Session(model, method, sft.Objective(), rows=bushy_rows(count=20), valid=bushy_rows(seed=1), train=TRAIN)


def test_it_changes_nothing(session, tmp_path, tiny_model, bushy_rows):
    before = {k: v.clone() for k, v in session.optimiser.state().items()}
    rehearse(session, folder=tmp_path)
    assert all(torch.equal(before[k], v) for k, v in session.optimiser.state().items())
    assert all(not gradient.any() for gradient in session.optimiser.gradients())
    assert list(tmp_path.iterdir()) == []
    untouched = lora.Method(lora.Options(rank=4, dropout=0.1))
    untouched.attach(model := tiny_model(), seed=5)
    other = Session(model, untouched, sft.Objective(), rows=bushy_rows(count=20), train=TRAIN)
    assert session.advance().loss == other.advance().loss


def test_it_foresees(session, tmp_path):
    forecast = rehearse(session, folder=tmp_path, looks=2)
    assert forecast.steps == session.steps
    assert 0 < forecast.seconds < 600
    assert 0 < forecast.shared < 1, "the rows share a beginning"
    assert forecast.disk_bytes > 4 * sum(t.nbytes for t in session.method.state(session.model).values())
    assert re.match(r"\d+ steps, about .*; memory up to .* of .*; disk .* free; \d+% of the tokens are shared beginnings\.", str(forecast))


def test_too_little_memory_for_the_longest_row_is_refused(session, tmp_path, monkeypatch):
    peaks = iter([1_000_000_000, 1_100_000_000])
    monkeypatch.setattr("luthier.engine.rehearsal._try", lambda *_: (0.001, next(peaks)))
    monkeypatch.setattr("luthier.engine.rehearsal.SMALLEST", 16)
    monkeypatch.setattr("luthier.engine.rehearsal.resident", lambda: 0)
    with pytest.raises(ResultError, match=r"The longest row has \d+ tokens, but memory \(1\.0 GiB\) is enough for about 0 at once\."):
        rehearse(session, folder=tmp_path, available=lambda: 2**30)


def test_little_memory_makes_smaller_forests(session, tmp_path, monkeypatch):
    import luthier.engine.rehearsal as room

    real, peaks = room._try, iter([1_000_000, 1_160_000])  # 10 kB a token between 16 and 32 tokens
    monkeypatch.setattr(room, "_try", lambda s, pack: (0.001, next(peaks)) if len(pack.tokens_T) <= 32 else real(s, pack))
    monkeypatch.setattr(room, "SMALLEST", 16)
    monkeypatch.setattr(room, "resident", lambda: 0)
    forecast = rehearse(session, folder=tmp_path, available=lambda: 4_000_000)
    assert forecast.tokens_per_pack == 260
    assert forecast.changes == ["tokens_per_pack 1,280 -> 260, so that the run fits into 4 MiB of memory."]


def test_too_little_disk_is_refused(session, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("luthier.engine.rehearsal.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"will write .* MiB, but only 0 MiB are free.*--out"):
        rehearse(session, folder=tmp_path)


def test_a_damaged_base_is_noticed_before_the_first_step(tiny_model, bushy_rows, tmp_path):
    model, method = tiny_model(), full.Method()
    method.attach(model)
    model.blocks()[1].mlp.up_proj.weight.data[0, 0] = float("inf")
    session = Session(model, method, sft.Objective(), rows=bushy_rows(), train=TRAIN)
    with pytest.raises(ResultError, match="before the first step"):
        rehearse(session, folder=tmp_path)
