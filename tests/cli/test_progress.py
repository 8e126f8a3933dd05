"""What a person sees: sparse lines in a pipe, one bar on a terminal."""

import io
import sys

import pytest

from luthier.cli.progress import Lines, Live, Pace, screen
from luthier.core.events import Note, Progress, Saved, Stage, Stepped, Validated


def step(number: int, of: int = 100) -> Stepped:
    return Stepped(number, of, loss=2.5, learned_tokens=100, tokens=400, seconds=0.5, learning_rate=1e-3, gradient_norm=1.0)


EVENTS = [
    Stage("check", "a.jsonl"),
    Progress("check", 5, 10),
    Note("format openai_chat"),
    Note("row 3 is long", level="warning"),
    Stage("tune"),
    *(step(i) for i in range(1, 101)),
    Validated(100, 1.25, best=True),
    Saved(100, "checkpoints/step-000100"),
]


def test_a_pipe_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(screen(), Lines)
    with screen() as listen:
        for event in EVENTS:
            listen(event)
    out, err = capsys.readouterr()
    assert out == "", "standard output belongs to the result"
    lines = err.splitlines()
    assert lines[0] == "check     a.jsonl"
    assert "  warning: row 3 is long" in lines
    assert [line for line in lines if "step" in line and "loss 2.500" in line] == [
        "  step 1 of 100  loss 2.500  800 tokens/s  50 s left",
        "  step 100 of 100  loss 2.500  800 tokens/s  0 s left",
    ]
    assert "  held-out loss 1.2500 after step 100, the best so far" in lines


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    assert isinstance(screen(), Live)
    with screen() as listen:
        for event in EVENTS:
            listen(event)
            if event == step(50):
                listen.bar.refresh()  # type: ignore[attr-defined]
    said = terminal.getvalue()
    assert "loss 2.500" in said
    assert "tokens/s" in said
    assert "held-out loss 1.2500" in said


def test_pace_smooths_and_counts_down() -> None:
    pace = Pace()
    pace.add(step(1, of=7202))
    assert str(pace) == "800 tokens/s  1 h 00 min left"
