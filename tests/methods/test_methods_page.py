"""docs/methods/: a page per method, which tells every setting with the default of the code, and whose example runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from luthier.cli import main
from luthier.core.registry import Folder
from luthier.jobs import matrix
from luthier.jobs.rates import rates, table

METHODS = Folder("luthier.methods", "method")
DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "methods.md").read_text(encoding="utf-8")
QUICK = ("train.max_steps=2", "train.rows_per_step=2", "evaluate.rows=0", "train.epochs=1", "data.valid=0.2")


def page(name: str) -> str:
    return (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS.names())
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    text = page(name)
    settings = text[text.index("| setting | default |") :] if "| setting | default |" in text else ""
    told = {tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in settings.splitlines() if line.startswith("| `")}
    assert told == {
        (key, "said by you" if field.is_required() else str(field.default))
        for key, field in METHODS.load(name).Options.model_fields.items()
    }


@pytest.mark.parametrize("name", METHODS.names())
def test_the_page_says_what_a_reader_wants_to_know(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# {name}: ")
    for part in ("\n## Formula\n", "\n## When\n", "\n## Cost\n", "\n## Example\n"):
        assert part in text
    assert re.search(r"arxiv\.org/abs/\d{4}\.\d{5}.*(section|eq\.|figure)", text, re.S), "its source, with the place in it"
    assert f"[{name}](methods/{name}.md)" in INDEX
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCS / "methods" / target).exists(), target


def test_every_method_has_its_rates_with_a_source_and_the_page_shows_them() -> None:
    assert set(rates()) | {"peft"} == set(METHODS.names()) | {"peft"}
    assert table() in INDEX
    for method, known in rates().items():
        assert known.below == sorted(known.below) and known.below[-1] == float("inf"), method
        assert known.rate == sorted(known.rate, reverse=True), "larger bases take less"
        assert len(known.source) > 10


def test_the_page_shows_the_matrix_and_the_verb_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.page() in INDEX
    assert main.dispatch(["methods", "--matrix"]) == 0
    printed = capsys.readouterr().out
    for row in matrix.rows():
        assert re.search(r"\s+".join(map(re.escape, row.values())), printed), row
    assert main.dispatch(["methods", "--matrix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matrix"] == matrix.rows()


def test_no_page_tells_of_what_is_not_there() -> None:
    assert {file.stem for file in (DOCS / "methods").glob("*.md")} == set(METHODS.names())


@pytest.mark.parametrize("name", METHODS.names())
def test_its_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    rows = [{"prompt": f"Where is parcel {i}?", "completion": "on its way" if i % 3 else "delivered"} for i in range(12)]
    Path("tickets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (block,) = re.findall(r"```sh\n(.*?)```", page(name), re.S)
    for command in block.strip().splitlines():
        words = shlex.split(command)
        assert words[:2] == ["luthier", "tune"] and name in [word.partition(":")[0] for word in words]
        settings = [word for setting in QUICK for word in ("--set", setting)]
        assert main.dispatch([*words[1:], "--out", str(tmp_path / "run"), *settings]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "certificate.json").is_file()
