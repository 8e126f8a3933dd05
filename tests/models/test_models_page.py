"""docs/models.md tells every refusal by the code its error carries."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_codes_in_the_page_are_codes_of_the_code() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    told = set(re.findall(r"\| `(\w+)` \|$", page, flags=re.M))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "luthier" / "models").rglob("*.py"))
    assert len(told) == 7
    assert all(f'"{code}"' in source for code in told)
