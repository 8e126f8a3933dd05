"""What this machine has for tuning, and what to do about each lack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.cli.answer import answer

if TYPE_CHECKING:
    from luthier.models.machine import Machine

Verdict = Literal["good", "slow", "bad"]
ENOUGH_MEMORY, ENOUGH_DISK = 4e9, 5e9


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` stops work, `slow` only costs time; both come with a remedy."""

    what: str
    found: str
    verdict: Verdict = "good"
    remedy: str = ""


def run(json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False) -> None:
    """Look at cores, number formats, memory, accelerator, libraries, folders. Exit code 1 when something stops work."""
    from luthier.models.machine import machine

    facts = machine()
    findings = [*_arithmetic(facts), *_memory(facts), *_software(facts), *_folders()]
    content = {"machine": facts.to_json(), "findings": [asdict(f) for f in findings], "ok": all(f.verdict != "bad" for f in findings)}
    answer(content, json=json, show=lambda: _show(findings))
    if not content["ok"]:
        raise typer.Exit(1)


def _arithmetic(facts: Machine) -> Iterator[Finding]:
    yield Finding("processor", f"{facts.processor}, {facts.cores} cores, {facts.threads} threads in use")
    if facts.threads > facts.cores:
        yield Finding(
            "threads",
            f"{facts.threads} threads on {facts.cores} cores",
            "slow",
            f"Set OMP_NUM_THREADS={facts.cores}: more threads than cores wait for each other.",
        )
    if facts.bfloat16:
        yield Finding("bfloat16", "yes")
    else:
        yield Finding(
            "bfloat16",
            "the processor does not multiply in it",
            "slow",
            "Weights are float32: twice the memory, about half the speed. A processor with AVX512-BF16 or AMX, or a GPU, has it.",
        )
    if facts.accelerator:
        yield Finding("accelerator", f"{facts.accelerator}, {facts.accelerator_bytes / 1e9:,.0f} GB")
    else:
        yield Finding(
            "accelerator", "none: the processor does the work", "good", "Models up to about 1 billion parameters are fine without."
        )


def _memory(facts: Machine) -> Iterator[Finding]:
    found = f"{facts.free_bytes / 1e9:,.1f} GB free of {facts.memory_bytes / 1e9:,.1f} GB"
    if facts.free_bytes >= ENOUGH_MEMORY:
        yield Finding("memory", found)
    else:
        yield Finding("memory", found, "slow", "Close something, or choose a small model: `luthier models` shows what each needs.")


def _software(facts: Machine) -> Iterator[Finding]:
    missing = [name for name, version in facts.versions.items() if not version]
    found = ", ".join(f"{name} {version}" for name, version in facts.versions.items() if version)
    yield Finding(
        "libraries", f"python {facts.python}, {found}", "bad" if missing else "good", f"Install {', '.join(missing)}." if missing else ""
    )
    from luthier.models.kernels import OFF
    from luthier.models.kernels.compiled import compiler

    if os.environ.get(OFF):
        yield Finding("kernels", f"torch's own: {OFF} is set", "slow", "Unset it for compiled ones.")
    elif compiler():
        yield Finding("kernels", f"compiled for this processor by {compiler()}, once, in seconds")
    else:
        yield Finding("kernels", "torch's own: no C++ compiler", "slow", "Install g++ or clang: a step then takes about a tenth less time.")


def _folders() -> Iterator[Finding]:
    from luthier.core.home import cache_folder, home, runs_folder

    for what, folder in (("home", home()), ("runs", runs_folder()), ("cache", cache_folder())):
        yield _writable(what, folder)
    existing = _existing(home())
    free = shutil.disk_usage(existing).free
    remedy = "" if free >= ENOUGH_DISK else "Free some space, or point LUTHIER_HOME to another disk."
    yield Finding("disk", f"{free / 1e9:,.1f} GB free at {existing}", "slow" if remedy else "good", remedy)


def _writable(what: str, folder: Path) -> Finding:
    """Whether `folder` can be written, or made, without making it."""
    existing = _existing(folder)
    state = str(folder) if existing == folder else f"{folder} (will be made)"
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(what, state)
    return Finding(what, f"{folder} cannot be written", "bad", "Set LUTHIER_HOME to a folder of yours, or change its permissions.")


def _existing(folder: Path) -> Path:
    return next(path for path in [folder, *folder.parents] if path.exists())


def _show(findings: list[Finding]) -> None:
    marks: dict[Verdict, str] = {"good": "ok  ", "slow": "slow", "bad": "BAD "}
    for finding in findings:
        typer.echo(f"{marks[finding.verdict]}  {finding.what:<13} {finding.found}")
        if finding.remedy:
            typer.echo(f"{'':<20}{finding.remedy}")
