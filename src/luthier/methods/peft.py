"""A door to the tuners of the PEFT library: ``method: peft:vera`` is its VeRA, ``peft:boft`` its BOFT, and so on.

Luthier's own methods come first: they stand on packed bases, and some run fused. Here PEFT makes its modules and says how they are saved;
they are hosted in slots like every delta, so that training, forests, resuming, swapping and serving work as for every method. Only this
file imports the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from luthier.core.errors import MissingPart, ModelError, SpecError, did_you_mean
from luthier.core.spec import Strict
from luthier.methods import _hosted, _peft
from luthier.methods._groups import ParameterGroup
from luthier.methods._lowrank import dice
from luthier.methods._tuners import BEGINS_ELSEWHERE, KINDS, OTHERWISE
from luthier.models import slot
from luthier.models.model import Model

_KEY = "default"
"""What an adapter is called inside PEFT: every delta holds one, Luthier's names are the slots'."""

_PLACE = frozenset({"target_modules", "exclude_modules", "modules_to_save", "base_model_name_or_path", "auto_mapping", "task_type"})
"""Settings that Luthier decides."""

Setting = bool | int | float | str | list[int]


class Options(Strict):
    """Settings of a tuner of PEFT."""

    kind: str
    """Which tuner: `--method peft:vera` says vera."""
    settings: dict[str, Setting] = Field({})
    """Its own settings, as PEFT's config calls them, e.g. {r: 64, d_initial: 0.1}."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"peft:{kind} is not offered; {OTHERWISE.get(kind, did_you_mean(kind, KINDS))}")
        return kind


class Foreign(nn.Module):
    """A module of PEFT as a delta. It computes with the linear it stands at, which it does not own.

    Attributes:
        tuner: PEFT's module. moving: its parameters that learn, by PEFT's names.
    """

    def __init__(self, tuner: nn.Module, wrapped: Any) -> None:
        super().__init__()
        self.tuner = tuner
        vars(self)["wrapped"] = wrapped  # around the whole network: never a part of it
        self.moving = {name for name, p in tuner.named_parameters() if p.requires_grad and not name.startswith("base_layer.")}
        vars(tuner)["base_layer"] = tuner._modules.pop("base_layer")

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """As PEFT computes it."""
        return cast(Tensor, self._beside(base)(x))

    def merge_into(self, base: nn.Module) -> None:
        """Let PEFT fold it into `base`."""
        self._beside(base).merge()

    def _beside(self, base: nn.Module) -> Any:
        vars(self.tuner)["base_layer"] = base  # served, it may stand in another network over the same weights
        return self.tuner


class Method(_hosted.Hosted):
    """One of PEFT's tuners."""

    supports = frozenset({"merge", "swap", "peft", "trees", "begins-as-base"})
    needs = frozenset({"plain-linears"})
    folder_name = "adapter"

    def __init__(self, options: Options) -> None:
        self.options = options
        if options.kind in BEGINS_ELSEWHERE:
            self.supports = self.supports - {"begins-as-base"}

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Place one of the tuner's modules at every linear of the blocks and let only what it adds move.

        Raises:
            MissingPart: PEFT is not installed. SpecError: it refuses a setting, or does not know how to tune this base.
        """
        with _bare(model.network):
            wrapped = self._wrapped(model, self._config(model), seed)
            made = _taken_out(model.network)
        self._host(model, name, made, wrapped)

    def _config(self, model: Model) -> Any:
        kind = _configs()[self.options.kind.upper()]
        known = kind.__dataclass_fields__.keys() - _PLACE
        for key in self.options.settings:
            if key not in known:
                raise SpecError(f"peft:{self.options.kind} has no setting {key!r}.", remedy=did_you_mean(key, known), code="unknown_key")
        with self._complaints():
            return kind(target_modules=list(model.linears()), **self.options.settings)

    def _wrapped(self, model: Model, config: Any, seed: int) -> Any:
        library = _library()
        with self._complaints(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(dice(seed, self.options.kind).initial_seed())
            return library.get_peft_model(model.network, config, adapter_name=_KEY)

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """PEFT's errors as ours; its warnings tell what it corrects by itself."""
        try:
            with _quiet():
                yield
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            what = f"PEFT does not take peft:{self.options.kind} with these settings for this base: {error}"
            raise SpecError(what, remedy="Change method.settings, or take another method.", code="peft") from error

    def _host(self, model: Model, name: str, made: Mapping[str, nn.Module], wrapped: Any) -> None:
        for path, tuner in made.items():
            slot.place(model.network, path).host(name, Foreign(tuner, wrapped))
        self._take_over(model, name)
        for delta in self.deltas(model).values():
            for part, p in delta.tuner.named_parameters():
                p.requires_grad_(part in delta.moving)
        model.network.eval()

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Matrices decay, vectors do not."""
        parameters = self._parameters(model)
        matrices = [(name, p) for name, p in parameters.items() if p.ndim >= 2]
        vectors = [(name, p) for name, p in parameters.items() if p.ndim < 2]
        groups = [ParameterGroup("peft.matrices", matrices, decay=True), ParameterGroup("peft.vectors", vectors)]
        return [group for group in groups if group.parameters]

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """What learns; what several linears share (VB-LoRA's bank) by the first of them."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for path, delta in self.deltas(model).items():
            for part, p in delta.tuner.named_parameters():
                if part in delta.moving:
                    found.setdefault(id(p), (f"{path}.{part.removesuffix(f'.{_KEY}')}", p))
        return dict(found.values())

    def save(self, model: Model, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT writes them, whole or not at all."""
        deltas = self.deltas(model)
        wrapped = next(iter(deltas.values())).wrapped
        with _bare(model.network), _quiet():
            _put(model.network, {path: delta.tuner for path, delta in deltas.items()})
            tensors = _library().get_peft_model_state_dict(wrapped, adapter_name=_KEY, save_embedding_layers=False)
        told = {name: _plain(value) for name, value in wrapped.peft_config[_KEY].to_dict().items() if name not in _PLACE}
        where = {"target_modules": _peft.shortest(deltas, model), "modules_to_save": None}
        _peft.write(folder, model, config=told | where | {"inference_mode": True}, tensors=tensors)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Attach an adapter of PEFT from disk.

        Raises:
            MissingPart: PEFT is not installed. ModelError: it is of a kind that is not offered, or not for this model.
        """
        told = _peft.config(folder, None)
        kind = str(told.get("peft_type", "")).lower()
        if kind not in KINDS:
            raise ModelError(
                f"An adapter of kind {kind!r} is not offered.", where=str(folder), remedy="Use its own method.", code="adapter"
            )
        fields = _configs()[kind.upper()].__dataclass_fields__.keys() - _PLACE - {"peft_type"}
        method = cls(Options(kind=kind))
        config = method._told({key: value for key, value in told.items() if key in fields}, told.get("target_modules"), folder)
        with _bare(model.network):
            wrapped = method._wrapped(model, config, seed=0)
            with _quiet():
                found = _library().set_peft_model_state_dict(wrapped, _peft.tensors(folder), adapter_name=_KEY)
            made = _taken_out(model.network)
        if found.unexpected_keys:
            raise _peft.not_part(found.unexpected_keys, f"peft:{kind} for this model", folder)
        _peft.is_strange(made, model.linears(), model, folder)
        method._host(model, name, made, wrapped)
        return method

    def _told(self, settings: dict[str, Any], targets: Any, folder: Path) -> Any:
        if isinstance(targets, str):
            _peft.refuse_slow([targets], folder / _peft.CONFIG)
        with self._complaints():
            return _configs()[self.options.kind.upper()](**settings | {"inference_mode": False}, target_modules=targets)

    def merge(self, model: Model) -> None:
        """Fold what was learned into the weights and take the slots out.

        Raises:
            ModelError: the slots host another method's deltas too.
        """
        _hosted.merge(model, self.name)


@contextmanager
def _bare(network: nn.Module) -> Iterator[None]:
    """The network without slots for a while, as PEFT wants to find it. What PEFT leaves in it goes again."""
    slots = slot.slots(network)
    _put(network, {path: place.base for path, place in slots.items()})
    before = [(p, p.requires_grad) for p in network.parameters()]
    try:
        yield
    finally:
        _taken_out(network)
        _put(network, slots)
        vars(network).pop("peft_config", None)
        for p, moves in before:
            p.requires_grad_(moves)


def _taken_out(network: nn.Module) -> dict[str, nn.Module]:
    """PEFT's modules by their path; the linears stand in their places again."""
    made = {path: module for path, module in network.named_modules() if hasattr(module, "base_layer")}
    _put(network, {path: cast(nn.Module, module.base_layer) for path, module in made.items()})
    return made


def _put(network: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent).register_module(name, module)


def _plain(value: Any) -> Any:
    """A value of a config as JSON has it."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(getattr(value, "value", value)) if isinstance(value, str) else value


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _library() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingPart("method peft needs the PEFT library, which is not installed.", remedy="pip install 'luthier[peft]'.") from error
    return peft


def _configs() -> Any:
    """PEFT's configs by the capital name of their kind."""
    _library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING
