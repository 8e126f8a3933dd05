"""Write requirements.lock: the exact version, in the present environment, of everything Luthier needs, directly or not."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires as requires_of
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
BUILD = ["hatchling", "editables", "setuptools"]
"""What building the package needs; installed beforehand so that the build itself fetches nothing."""

HEAD = "# Every library at its exact version; `make lock` writes this file from the present environment.\n"


def closure(wanted: list[str]) -> dict[str, str]:
    """Name -> version of `wanted` and all they require here."""
    found: dict[str, str] = {}
    todo = [Requirement(text) for text in wanted]
    visited: set[tuple[str, tuple[str, ...]]] = set()
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        key = (name, tuple(sorted(requirement.extras)))
        if key in visited:
            continue
        visited.add(key)
        found[name] = version(requirement.name).split("+")[0]  # the local part names a build, e.g. +cpu
        for text in requires_of(requirement.name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}):
                todo.append(inner)
    return found


def main() -> None:
    """Write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra), *BUILD]
    lines = [f"{name}=={number}\n" for name, number in sorted(closure(wanted).items())]
    (ROOT / "requirements.lock").write_text(HEAD + "".join(lines))
    print(f"requirements.lock: {len(lines)} libraries")


if __name__ == "__main__":
    main()
