"""The folder is the registry: a file `lora.py` in `methods/` *is* `method: lora`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from luthier.core.errors import SpecError, did_you_mean


class Folder:
    """The parts that live in one open folder, found by file name and imported on first use.

    Files that begin with an underscore are the folder's own furniture, not parts.

    Args:
        package: dotted name of the folder, e.g. ``luthier.methods``.
        noun: what one part is called in messages, e.g. ``method``.
    """

    def __init__(self, package: str, noun: str) -> None:
        self.package, self.noun = package, noun

    def names(self) -> list[str]:
        """All parts, by the name a Spec uses (``_`` in a file name reads as ``-`` nowhere: names equal file names)."""
        paths = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_") and not m.ispkg)

    def load(self, name: str) -> ModuleType:
        """The module behind `name`.

        Raises:
            SpecError: no such part; the message suggests the nearest.
        """
        names = self.names()
        if name not in names:
            raise SpecError(f"There is no {self.noun} called {name!r}.", remedy=did_you_mean(name, names), code=f"unknown_{self.noun}")
        return importlib.import_module(f"{self.package}.{name}")
