"""Which modules a method stands at, said by people: names, endings, patterns."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from luthier.core.errors import SpecError, did_you_mean


def targets(paths: Iterable[str], wanted: str | list[str], *, setting: str = "targets") -> list[str]:
    """Those of `paths` that `wanted` names, in their order.

    Args:
        wanted: "all-linear" for all of them, or a list of names (``q_proj``), endings (``mlp.up_proj``) and patterns (``*.layers.1?.*``).
        setting: what it is called in a Spec.

    Raises:
        SpecError: an entry names none.
    """
    known = list(paths)
    if isinstance(wanted, str):
        return known
    for entry in wanted:
        if not any(names(entry, path) for path in known):
            endings = {path.rpartition(".")[2] for path in known}
            raise SpecError(
                f"method.{setting}: no linear of the blocks is called {entry!r}.", remedy=did_you_mean(entry, endings), code="targets"
            )
    return [path for path in known if any(names(entry, path) for entry in wanted)]


def names(entry: str, path: str) -> bool:
    """Whether `entry` means `path`."""
    return path == entry or path.endswith(f".{entry}") or ("*" in entry and fnmatchcase(path, entry))
