"""Is a chat template safe to run here? It is tried in a child process that can be killed.

Jinja's sandbox keeps a template from files and the interpreter, but not from computing ``9**9999999`` or looping for ever, and constants
are computed while the template is compiled. So an unknown template is first compiled and rendered on a few conversations in a child
with limits on time, memory and output. The verdict is kept by the template's hash under the cache folder: a template costs this once.

What it cannot see: a template that misbehaves only on words that no probe holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, ModelError, StorageError
from luthier.core.files import write_json
from luthier.core.home import cache_folder
from luthier.data.template import BUILT_IN

SECONDS = 10
"""Processor time of the child; a good template takes a few hundredths."""
PATIENCE = 120
"""Wall time, for machines so busy that the child hardly runs."""
MEMORY_BYTES = 1 << 30
OUTPUT_CHARACTERS = 1_000_000
VERSION = 1


def approve(source: str, *, variables: dict[str, Any], where: str = "") -> None:
    """Return when `source` behaved on the probes, now or earlier.

    Raises:
        ModelError: it ran too long, took too much memory, wrote too much, is not Jinja, or refuses even the simplest conversation.
    """
    if source in BUILT_IN:
        return
    file = cache_folder() / "templates" / f"{hashlib.sha256(source.encode()).hexdigest()}.json"
    verdict = _remembered(file)
    if verdict is None:
        verdict = _try_in_child(source, variables)
        _remember(file, verdict)
    if verdict:
        raise ModelError(
            f"The chat template is not usable: {verdict}.",
            where=where,
            remedy="Fetch the model from its original source, or put a corrected chat_template.jinja into its folder.",
            code="template",
        )


def _remembered(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text())
        return str(content["verdict"]) if content["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no verdict, or a damaged one: try again


def _remember(file: Path, verdict: str) -> None:
    with contextlib.suppress(StorageError):  # a cache that cannot be written costs time, not truth
        write_json(file, {"version": VERSION, "verdict": verdict})


def _try_in_child(source: str, variables: dict[str, Any]) -> str:
    """The verdict as words; empty when all is well."""
    question = json.dumps({"source": source, "variables": variables, "seconds": SECONDS})
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "PATH": os.environ.get("PATH", "")}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "luthier.data.probe"],
            input=question,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(  # not remembered: it may be the machine
            f"The chat template gave no answer in {PATIENCE} seconds.", remedy="Try again when the machine is less busy.", code="template"
        ) from error
    if child.returncode == 0:
        return str(json.loads(child.stdout)["verdict"])
    if child.returncode < 0:
        return f"it ran longer than {SECONDS} seconds on a short conversation"
    return f"rendering a short conversation failed: {child.stderr.strip().splitlines()[-1] if child.stderr.strip() else 'no message'}"


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: only the parent's clock limits the child
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _judge(source: str, variables: dict[str, Any]) -> str:
    from luthier.core.example import Message
    from luthier.data.shape import PROBE_TOOLS, shape_of
    from luthier.data.template import Template, compiled

    try:
        compiled(source)
    except Exception as error:
        return f"it does not compile: {error}"
    template = Template(source, variables=variables)
    shape = shape_of(template)
    talk = [Message("user", "Question 1"), Message("assistant", "Answer 1", thinking="Thought"), Message("user", "Question 2" * 50)]
    plain = ""
    for messages in ([talk[0]], talk, [Message("system", "Rules"), *talk], talk * 8):
        for tools in ((), PROBE_TOOLS):
            try:
                text = template.render(shape.messages(messages), tools=tools, generate=True)
            except DataError as error:
                if messages == [talk[0]] and not tools:
                    plain = f"it refuses a single question: {error.what}"
                continue
            if len(text) > OUTPUT_CHARACTERS:
                return f"it wrote {len(text):,} characters for a short conversation"
    return plain


def _child() -> None:
    question = json.loads(sys.stdin.read())
    _limit(question["seconds"])
    try:
        verdict = _judge(question["source"], question["variables"])
    except MemoryError:
        verdict = f"it needs more than {MEMORY_BYTES >> 20} MB for a short conversation"
    sys.stdout.write(json.dumps({"verdict": verdict}))


if __name__ == "__main__":
    _child()
