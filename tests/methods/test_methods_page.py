"""docs/methods.md tells every setting of every method with the default of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.registry import Folder

METHODS = Folder("luthier.methods", "method")
PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS.names())
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    told = {tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in section.splitlines() if line.startswith("| `")}
    assert told == {(key, str(field.default)) for key, field in METHODS.load(name).Options.model_fields.items()}
