"""Recipes are scripts beside the package: their tests import them as they import each other."""

import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path[:0] = [str(RECIPES / "mini"), str(RECIPES / "desk")]


@pytest.fixture(scope="session")
def bundled() -> Path:
    return Path(__file__).parents[2] / "src/luthier/models/bundled/luthier-mini"
