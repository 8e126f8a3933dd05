"""Pages of a weight file that were only copied are let go, and nothing else is."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.models.mapped import forget, spans

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is mapped")


@pytest.fixture
def weights(tmp_path):
    save_file({"a": torch.arange(1 << 20).float(), "b": torch.ones(1 << 20)}, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    if not spans(tmp_path):
        pytest.skip("this safetensors does not map its files")
    return found


def test_pages_are_let_go_and_come_back(tmp_path, weights):
    total = weights["a"].sum()
    assert spans(tmp_path)[0].resident >= 4 << 20
    forget(tmp_path)
    assert spans(tmp_path)[0].resident < 1 << 20
    assert weights["a"].sum() == total and weights["b"][-1] == 1


def test_a_change_in_memory_is_never_forgotten(tmp_path, weights):
    weights["b"][7] = 5
    forget(tmp_path)
    assert weights["b"][7] == 5 and weights["a"][-1] == (1 << 20) - 1
