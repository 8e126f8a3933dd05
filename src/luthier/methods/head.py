"""Head only: the network stands still, and a head on its states learns (a linear probe; Alain and Bengio, arXiv 1610.01644).

Because nothing in the network moves, every row goes through it once, its states are kept in the cache by the content of base and rows, and
the head learns from them in seconds a pass. It wants an objective that puts a head on the states.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor

from luthier.core.files import new_folder, write_json
from luthier.core.spec import Strict
from luthier.methods import _hosted, _peft
from luthier.methods._groups import ParameterGroup
from luthier.models.model import Model

KIND = "HEAD"
"""What the config calls itself; no library knows it."""


class Options(Strict):
    """Nothing to choose."""


class Method:
    """Nothing of the network moves; what moves is the objective's head, which trains with whatever method there is."""

    supports = frozenset({"merge", "packed", "swap", "trees", "fused", "begins-as-base", "still"})
    needs = frozenset({"head"})
    folder_name = "adapter"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Let the network stand still."""
        model.network.requires_grad_(False)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Nothing."""
        return []

    def state(self, model: Model) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over nothing.

        Raises:
            ModelError: there is something.
        """
        _hosted.copy_state({}, state)

    def save(self, model: Model, folder: Path) -> None:
        """A config that says which base the head belongs to; the head lies beside it."""
        with new_folder(folder) as part:
            write_json(part / _peft.CONFIG, {"peft_type": KIND, "base_model_name_or_path": _peft.portable_name(model)})

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Nothing to attach.

        Raises:
            ModelError: it was made with another method.
        """
        _peft.config(folder, KIND)
        method = cls()
        method.attach(model, name=name)
        return method

    def merge(self, model: Model) -> None:
        """Plain already."""

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]:
        """The network is the base's either way."""
        return nullcontext()
