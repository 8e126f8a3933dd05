"""What every objective promises, whatever its name: a new file in ``objectives/`` is held to it without further work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthier.core.registry import Folder

OBJECTIVES = Folder("luthier.objectives", "objective")
NAMES = OBJECTIVES.names()
DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / "objectives" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    objective = OBJECTIVES.load(name).Objective
    assert objective.per in ("weight", "row")
    assert isinstance(objective.pairs, bool)
    assert objective.learn in (None, "answers", "last_answer", "everything")
    assert 0 < objective.rate <= 1
    assert OBJECTIVES.load(name).Objective().beside <= {"reference", "teacher"}
    assert objective.supports <= {"head"}


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_its_help_and_its_line_in_the_page(name: str) -> None:
    fields = OBJECTIVES.load(name).Options.model_fields
    assert all(field.description for field in fields.values())
    told = {tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in page(name).splitlines() if line.startswith("| `")}
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    assert {(key, str(value.get("type") if isinstance(value, dict) else value)) for key, value in defaults.items()} <= told


@pytest.mark.parametrize("name", NAMES)
def test_its_page_answers_the_five_questions(name: str) -> None:
    assert re.findall(r"^## (\w+)$", page(name), re.M) == ["Formula", "When", "Cost", "Source", "Example"]
    assert f"(objectives/{name}.md)" in (DOCS / "objectives.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_its_page_runs(name: str, examples: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", page(name), re.S)
    exec(compile(code.replace('"luthier-mini"', repr(str(tiny_base))), f"{name}.md", "exec"), {})
    assert capsys.readouterr().out.strip(), "the example shows something"
