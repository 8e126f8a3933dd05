"""The command: verbs by file name, one door for errors, nothing heavy before it is needed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli import boundary, main
from luthier.core.errors import Interrupted, SpecError
from luthier.core.registry import Folder


def luthier(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user runs it."""
    variables = {**os.environ, "LUTHIER_HOME": str(home), "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "luthier.cli.main", *arguments], capture_output=True, text=True, env=variables, timeout=120, check=False
    )


def test_help_names_every_verb_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from luthier.cli import main; code = main.dispatch(['--help']); "
        "heavy = {'torch', 'typer', 'rich', 'numpy', 'pydantic', 'pyarrow', 'transformers'} & set(sys.modules); "
        "print('HEAVY', sorted(heavy), code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("HEAVY [] 0\n")
    for verb in Folder("luthier.cli.verbs", "verb").names():
        assert f"\n  {verb} " in done.stdout


def test_help_answers_at_once(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert luthier("--help", home=tmp_path).returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.4


@pytest.mark.parametrize("verb", Folder("luthier.cli.verbs", "verb").names())
def test_every_verb_explains_itself_without_torch(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = f"import sys; from luthier.cli import main; main.dispatch(['{verb}', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout or "COMMAND" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tnue"], "There is no verb called 'tnue'.\n  do      Did you mean tune?"),
        (["--halp"], "There is no option --halp"),
        (["tune", "--hlep"], "Did you mean --help?"),
        (["chat", ""], "neither a run nor a model called ''"),
        (["tune", "--modle", "x"], "has no option --modle.\n  do      Did you mean --model?"),
        (["runs", "show"], "Missing argument"),
        (["runs", "sohw"], "No such command 'sohw'. Did you mean 'show'?"),
        (["runs", "show", "nothing"], "There is no run called 'nothing'"),
        (["tune", "--resume", "x", "--method", "lora"], "--resume goes on with a run as it was begun"),
    ],
)
def test_wrong_use_is_explained_and_exits_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = luthier(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_errors_are_one_object_on_standard_output(tmp_path: Path) -> None:
    done = luthier("runs", "show", "nothing", "--json", home=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], done.stderr) == (2, "unknown_run", "")
    assert json.loads(luthier("runs", "--json", home=tmp_path).stdout) == {"runs": []}


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = luthier("runs", "show", "nothing", home=tmp_path, LUTHIER_DEBUG="1")
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_a_bug_is_called_one_and_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))

    def broken() -> int:
        raise ZeroDivisionError("by nought")

    assert boundary.guarded(broken) == 1
    said = capsys.readouterr().err
    assert "This is a bug in Luthier: ZeroDivisionError: by nought" in said
    (kept,) = (tmp_path / "crashes").iterdir()
    assert str(kept) in said
    assert "in broken" in kept.read_text()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            SpecError("Wrong.", where="a.yaml", remedy="Do right."),
            2,
            "luthier: Wrong.\n  where   a.yaml\n  do      Do right.\n  code    spec",
        ),
        (Interrupted("Stopped.", remedy="luthier tune --resume x"), 130, "luthier tune --resume x"),
        (KeyboardInterrupt(), 130, "Stopped before anything had to be saved."),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert boundary.guarded(work) == code
    assert text in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    script = (
        "import sys; from luthier.cli import boundary; sys.exit(boundary.guarded(lambda: [print('x' * 100) for _ in range(10000)] and 0))"
    )
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; {sys.executable} -c "{script}" | head -1'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["--version"]) == 0
    assert capsys.readouterr().out.startswith("luthier 0.")


def test_sigterm_means_stop() -> None:
    with pytest.raises(KeyboardInterrupt):
        main._as_interrupt(signal.SIGTERM, None)
