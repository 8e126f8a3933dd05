"""What every room's tests may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data, corpora and models that lie beside the repository; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LUTHIER_SHARED")
    return folder
