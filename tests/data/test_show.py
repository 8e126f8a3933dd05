"""What `luthier data show` draws: learned text set apart, forks named, counts right."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from template_folders import published

from luthier.cli.main import dispatch
from luthier.core.errors import DataError, NotFound
from luthier.core.example import Example, Message, Source
from luthier.data.render import Renderer
from luthier.data.show import chosen, print_row, shown


@pytest.fixture(scope="module")
def renderer(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        return Renderer.from_folder(published(shared, tmp_path_factory.mktemp("models"), "Qwen-Qwen3-0.6B"))


@pytest.fixture
def example() -> Example:
    turns = [Message("user", "Hello"), Message("assistant", "Good day", weight=0.5), Message("user", "And?"), Message("assistant", "Bye")]
    return Example(Source("f.jsonl", 3), messages=turns)


def drawn(example: Example, renderer: Renderer, *, terminal: bool) -> str:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=200, color_system="standard" if terminal else None, highlight=False)
    print_row(example, shown(example, renderer), console)
    return sink.getvalue()


def test_learned_text_stands_between_marks_and_forks_are_named(example: Example, renderer: Renderer) -> None:
    text = drawn(example, renderer, terminal=False)
    assert "assistant\n⟦0.5x <think>\n\n</think>\n\nGood day<|im_end|>⟧\n" in text
    assert text.count("⟦") == text.count("⟧") == 2
    first, second = shown(example, renderer)
    assert f"path 2: {second.learned} of {second.tokens} tokens learned; begins with {second.shared} tokens of an earlier path\n..." in text
    assert text.startswith(f"f.jsonl row 3: {first.learned + second.learned} of {first.tokens + second.tokens} tokens learned in 2 paths\n")
    assert "".join(stretch.text for stretch in first.stretches) == renderer.decode(renderer.render(example)[0].tokens)
    assert first.shared == 0 < second.shared


def test_a_terminal_sees_colour_and_no_marks(example: Example, renderer: Renderer) -> None:
    text = drawn(example, renderer, terminal=True)
    assert "⟦" not in text
    assert "\x1b[1;30;42m" in text


def test_rows_are_chosen_and_a_bad_one_says_why(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "wizard", "content": "a"}]}
    file.write_text("\n".join(json.dumps(row) for row in [good, bad, good, good]), encoding="utf-8")
    assert [e.source.row for e in chosen(file, rows=2)] == [1, 3]
    assert [e.source.row for e in chosen(file, rows=2, row=4)] == [4]
    with pytest.raises(DataError, match="row 2") as caught:
        chosen(file, rows=1, row=2)
    assert "wizard" in str(caught.value)
    with pytest.raises(NotFound, match="There is no row 9"):
        chosen(file, rows=1, row=9)


def test_the_verb_answers_with_words_and_with_json(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}]}) + "\n")
    model = str(shared / "models" / "stories260k")
    assert dispatch(["data", "show", str(file), "--model", model]) == 0
    assert "Assistant:\n⟦Good day</s>⟧" in capsys.readouterr().out
    assert dispatch(["data", "show", str(file), "--model", model, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (path,) = content["rows"][0]["paths"]
    assert [(s["text"], s["weight"]) for s in path["stretches"]] == [("User:\nHi\n\nAssistant:\n", 0.0), ("Good day</s>", 1.0)]
    assert path["learned"] == path["stretches"][1]["tokens"]
