"""docs/service.md tells every setting with its default, and every number of the metrics, in the code's own words."""

from __future__ import annotations

from pathlib import Path

import httpx2

from luthier.server.live import FIGURES
from luthier.server.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def test_every_setting_is_told() -> None:
    for name, field in Settings.model_fields.items():
        default = field.default if field.default not in ("", (), 0, 0.0) else ""
        shown = f"{default:,}" if isinstance(default, int) and not isinstance(default, bool) and default > 9999 else str(default)
        expected = row(f"`{name}`", f"`{shown}`" if shown else "", (field.description or "").replace("``", "`"))
        assert expected in PAGE, f"docs/service.md wants: {expected}"


def test_every_number_is_told(http: httpx2.Client) -> None:
    shown = http.get("/metrics").text
    told = {line.split()[2]: line.split(" ", 3)[3] for line in shown.splitlines() if line.startswith("# HELP")}
    told |= {f"luthier_serving_{name}": text for name, text in FIGURES.items()}
    for name, text in told.items():
        if not name.endswith("_created"):
            assert row(f"`{name}`", text) in PAGE, f"docs/service.md wants: {row(f'`{name}`', text)}"
