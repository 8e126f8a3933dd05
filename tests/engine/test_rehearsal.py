"""The rehearsal changes nothing, foresees, adapts, and refuses."""

import re

import pytest
import torch

from luthier.core.errors import ResultError, StorageError
from luthier.core.spec import TrainSpec
from luthier.engine.pack import packs
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


class Fixed:
    """Memory of which the process has nothing yet; each reset is followed by the next of these peaks, the last of them for ever."""

    def __init__(self, free, *peaks):
        self.room, self.peaks = free, list(peaks)

    def free(self):
        return self.room

    def taken(self):
        return 0

    def reset(self):
        pass

    def peak(self):
        return self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0]


@pytest.fixture
def small(monkeypatch):
    """Forests may be as small as 16 tokens, so that probes of 16 and 32 differ."""
    monkeypatch.setattr("luthier.engine.fit.SMALLEST", 16)


@pytest.mark.usefixtures("small")
def test_too_little_memory_for_the_longest_row_is_refused(session, tmp_path):
    gauge = Fixed(2**30, *(1_000_000_000, 1_100_000_000) * 2)  # recomputed blocks take as much
    with pytest.raises(ResultError, match=r"The longest row has \d+ tokens, but memory \(1\.0 GiB\) is enough for about 0 at once\."):
        rehearse(session, folder=tmp_path, gauge=gauge)


@pytest.mark.usefixtures("small")
def test_little_memory_makes_smaller_forests(session, tmp_path):
    gauge = Fixed(8_000_000, 1_000_000, 1_160_000)  # 10 kB a token between 16 and 32 tokens
    forecast = rehearse(session, folder=tmp_path, gauge=gauge)
    assert forecast.tokens_per_pack == 620
    assert forecast.changes == ["tokens_per_pack 1,280 -> 620, so that the run fits into 8 MiB of memory."]
    assert not forecast.recompute


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("said", ["auto", False])
def test_before_forests_become_small_blocks_are_computed_again(session, tmp_path, said):
    session.train = TRAIN.model_copy(update={"recompute": said})
    gauge = Fixed(4_000_000, 1_000_000, 1_160_000, 1_000_000, 1_016_000)  # 10 kB a token, and 1 kB after that
    if said == "auto":
        forecast = rehearse(session, folder=tmp_path, gauge=gauge)
        assert (forecast.tokens_per_pack, forecast.recompute) == (1280, True)
        assert forecast.changes == ["recompute false -> true, as memory is 4 MiB."]
        assert all(type(block.forward).__name__ == "Again" for block in session.model.blocks())
    else:
        forecast = rehearse(session, folder=tmp_path, gauge=gauge)
        assert (forecast.tokens_per_pack, forecast.recompute) == (260, False)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("said", ["auto", True, False])
def test_where_recomputing_is_not_enough_states_wait_in_main_memory(session, tmp_path, monkeypatch, said):
    monkeypatch.setattr("luthier.engine.fit.OFFLOADS", {"cpu"})  # as on a device with memory of its own
    session.train = TRAIN.model_copy(update={"offload": said})
    plain, kept, away = (1_000_000, 1_160_000), (1_000_000, 1_144_000), (1_000_000, 1_016_000)  # 10, 9 and 1 kB a token
    gauge = Fixed(4_000_000, *plain, *(() if said is True else kept), *(kept if said is False else away))
    forecast = rehearse(session, folder=tmp_path, gauge=gauge)
    assert (forecast.recompute, forecast.offload) == (True, said is not False)
    assert forecast.tokens_per_pack == (1280 if said else 288)
    assert all(block.forward.way is not None for block in session.model.blocks()) == forecast.offload
    steps = {"auto": ["recompute", "offload"], True: ["recompute"], False: ["recompute"]}[said]
    assert forecast.changes[: len(steps)] == [f"{name} false -> true, as memory is 4 MiB." for name in steps]


def test_where_the_device_has_main_memory_nothing_is_offloaded(session, tmp_path):
    session.train = TRAIN.model_copy(update={"offload": True, "recompute": True})
    forecast = rehearse(session, folder=tmp_path)
    assert (forecast.recompute, forecast.offload) == (True, False)
    assert forecast.changes == ["offload true -> false: here the model computes in main memory."]


def test_a_forest_that_does_not_fit_all_the_same_is_halved(session, tmp_path, monkeypatch):
    real = Session.loss

    def short(self, pack, **more):
        if len(pack.tokens_T) > 400:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, pack, **more)

    monkeypatch.setattr(Session, "loss", short)
    whole = max(len(pack.tokens_T) for pack in packs(list(session.rows), 1280))
    assert whole > 400
    forecast = rehearse(session, folder=tmp_path)
    assert forecast.tokens_per_pack == whole // 2
    assert forecast.changes == [f"tokens_per_pack 1,280 -> {whole // 2}: the larger forest did not fit into memory."]
    assert all(not gradient.any() for gradient in session.optimiser.gradients())


def test_memory_that_holds_no_forest_at_all_is_told(session, tmp_path, monkeypatch):
    def never(self, pack, **more):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("luthier.engine.fit._fitting", lambda *_: 1280)
    monkeypatch.setattr(Session, "loss", never)
    with pytest.raises(ResultError, match="the smallest that holds the longest row, does not fit into memory") as caught:
        rehearse(session, folder=tmp_path)
    assert caught.value.code == "memory_short"


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
