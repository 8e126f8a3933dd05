"""The one door through which every error of the command line leaves: a message, a code, never a bare traceback."""

from __future__ import annotations

import json as _json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.core.home import home

INTERRUPTED = 130


def guarded(work: Callable[[], int], *, json: bool = False) -> int:
    """Run `work`, turn whatever it raises into a message and an exit code.

    Args:
        json: put errors on standard output as ``{"error": {...}}`` instead of words on standard error.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except LuthierError as error:
        _show(error, json)
        return error.exit_code
    except KeyboardInterrupt:
        _show(LuthierError("Stopped before anything had to be saved.", code="interrupted"), json)
        return INTERRUPTED
    except SystemExit:
        return 0  # rich leaves like this, stdout closed, when the reader has seen enough
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _show(_bug(error), json)
        return 1


def _show(error: LuthierError, json: bool) -> None:
    if os.environ.get("LUTHIER_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)
    if json:
        sys.stdout.write(_json.dumps({"error": error.to_json()}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    place = f"\n  where   {error.where}" if error.where else ""
    remedy = f"\n  do      {error.remedy}" if error.remedy else ""
    sys.stderr.write(f"luthier: {error.what}{place}{remedy}\n  code    {error.code} (docs/errors.md)\n")


def _bug(error: Exception) -> LuthierError:
    """An unexpected exception is our fault: keep its traceback in a file and say where."""
    file = _keep("".join(traceback.format_exception(error)))
    return LuthierError(
        f"This is a bug in Luthier: {type(error).__name__}: {error}",
        where=f"the traceback is in {file}",
        remedy="Report it with that file; LUTHIER_DEBUG=1 shows the traceback here.",
        code="bug",
    )


def _keep(text: str) -> Path:
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid()}.txt"
    for folder in (home() / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            return folder / name
        except OSError:
            continue
    return Path("nowhere: no folder could be written")
