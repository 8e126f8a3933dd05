"""From what the user said to one complete Spec: defaults < spec.yaml < ``--set`` and keyword arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import NotFound, SpecError
from luthier.core.files import write_text
from luthier.core.registry import Folder
from luthier.core.spec import DataSpec, Part, Spec, checked
from luthier.models.catalog import catalog

METHODS = Folder("luthier.methods", "method")
OBJECTIVES = Folder("luthier.objectives", "objective")
METRICS = Folder("luthier.evaluation.metrics", "metric")

SHORT = {"model": "name", "data": "file", "method": "name", "objective": "name"}
"""Sections that may be written as one word."""

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
"""YAML 1.1 reads 5e-4 as text (it wants 5.0e-4); people mean the number."""


def gather(*, config: Path | None = None, settings: Iterable[str] = (), **sections: Any) -> Spec:
    """The complete Spec of a run.

    Args:
        config: a ``spec.yaml``; paths in it are relative to the present folder.
        settings: ``key=value`` with a dotted key and a YAML value, e.g. ``method.rank=8``. Later ones win.
        sections: ``model``, ``data``, ``method``, ``objective``, ``train``, ``evaluate``, ``quality``: a word where the section has a
            short form, else a mapping. They win over `config`; `settings` win over both.

    Raises:
        SpecError: an unknown key or part (the nearest is suggested), a value that does not do.
        NotFound: `config` is not there.
    """
    defaults = Spec()
    content: dict[str, Any] = {"method": {"name": defaults.method.name}, "objective": {"name": defaults.objective.name}}
    if config is not None:
        content = _merged(content, load_yaml(config))
    content = _merged(content, {k: v for k, v in sections.items() if v is not None})
    content = _merged(content, said(settings))
    where = str(config or "")
    return complete(Spec.parse(content, where=where), where=where)


def said(settings: Iterable[str]) -> dict[str, Any]:
    """The sections of a Spec that texts like ``method.rank=8`` speak of.

    Raises:
        SpecError: one of them is not ``key=value`` with a YAML value.
    """
    content: dict[str, Any] = {}
    for setting in settings:
        content = _merged(content, _nested(setting))
    return content


def complete(spec: Spec, *, where: str = "") -> Spec:
    """Let the owners of method, objective and metric check what is theirs and fill in their defaults; make local paths absolute.

    Raises:
        SpecError: an unknown part or option, or a ``data.learn`` that the objective does not leave open.
    """
    paths = {"file": _absolute(spec.data.file)} | _absolute_valid(spec.data.valid)
    data = spec.data.model_copy(update=paths | {"learn": _learn(spec)})
    is_folder = (Path(spec.model.name).expanduser() / "config.json").is_file()
    model = spec.model.model_copy(update={"name": _absolute(spec.model.name)} if is_folder else {})
    method, objective = _filled(METHODS, spec.method, "method", where), _filled(OBJECTIVES, spec.objective, "objective", where)
    objective = objective.model_copy(update={key: _absolute(objective.options[key]) for key in places(objective.model_dump())})
    if spec.evaluate.metric != "auto":
        METRICS.load(spec.evaluate.metric)  # a mistyped name is told before anything is spent
    return spec.model_copy(update={"data": data, "model": model, "method": method, "objective": objective})


def places(objective: Any) -> list[str]:
    """Options of an objective, given as in a Spec, that name a file or a folder of this machine; a name of the catalog names none."""
    if not isinstance(objective, Mapping) or objective.get("name") not in OBJECTIVES.names():
        return []
    kind = OBJECTIVES.load(str(objective["name"])).Objective
    return [key for key in getattr(kind, "places", ()) if objective.get(key) and objective[key] not in catalog()]


def load_yaml(path: Path) -> dict[str, Any]:
    """The content of a Spec file.

    Raises:
        NotFound: there is no such file. SpecError: it is not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(
            "There is no such spec file.", where=str(path), remedy="Give an existing one to --config.", code="no_spec"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SpecError(f"This is not a YAML file: {error}", where=str(path), remedy="Correct that place.", code="bad_yaml") from error
    if not isinstance(content, dict):
        raise SpecError(
            "A spec file holds sections (model, data, method, ...).",
            where=str(path),
            remedy="`luthier runs show RUN` shows them all; a run's spec.yaml is an example.",
            code="bad_yaml",
        )
    return {str(key): _numbers(value) for key, value in content.items()}


def moves_weights(spec: Spec) -> bool:
    """Whether the method moves the network's own weights: its optimiser's state is large, and its result a whole model."""
    return "whole" in METHODS.load(spec.method.name).Method.supports


def save(spec: Spec, path: Path) -> None:
    """Write a Spec so that `luthier tune --config` runs it again."""
    write_text(path, dump(spec))


def dump(spec: Spec) -> str:
    """A Spec as YAML, every value spelled out."""
    text: str = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=1000)
    return text


def load(path: Path) -> Spec:
    """A Spec that `save` wrote."""
    return Spec.parse(load_yaml(path), where=str(path))


def _learn(spec: Spec) -> str:
    """What the objective wants learned, where it does not leave that to ``data.learn``."""
    wanted: str | None = OBJECTIVES.load(spec.objective.name).Objective.learn
    if wanted is None or spec.data.learn in (wanted, DataSpec().learn):
        return wanted or spec.data.learn
    what = f"data.learn = {spec.data.learn!r} does not do: objective {spec.objective.name} learns {wanted}."
    raise SpecError(what, remedy="Leave data.learn out, or take objective sft.", code="bad_value")


def _filled(folder: Folder, part: Part, path: str, where: str) -> Part:
    options = checked(folder.load(part.name).Options, part.options, path=path, where=where)
    return Part(name=part.name, **options.model_dump(mode="json"))


def _absolute(name: str) -> str:
    """A path that exists becomes absolute, so that the run can be resumed from any folder; a name stays a name."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def _absolute_valid(valid: float | str) -> dict[str, float | str]:
    return {"valid": _absolute(valid)} if isinstance(valid, str) else {}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, section by section. Another method or objective does not inherit the options of the one it replaces."""
    result = dict(old)
    for key, value in new.items():
        section, before = _long(key, value), _long(key, result.get(key, {}))
        if isinstance(section, Mapping) and isinstance(before, Mapping):
            renamed = key in ("method", "objective") and section.get("name", before.get("name")) != before.get("name")
            result[key] = {**({} if renamed and "name" in before else before), **section}
        else:
            result[key] = section
    return result


def _long(key: str, value: Any) -> Any:
    if isinstance(value, Path):
        value = str(value)
    return {SHORT[key]: value} if key in SHORT and isinstance(value, str) else value


def _nested(setting: str) -> dict[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set wants key=value, not {setting!r}.", remedy="For example --set method.rank=8.", code="bad_setting")
    try:
        value = _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise SpecError(f"The value of --set {setting!r} is not YAML.", remedy="Quote it.", code="bad_setting") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
