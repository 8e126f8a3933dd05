"""From a name to a folder: bundled, local, or in the Hugging Face cache. Downloads only when asked."""

from __future__ import annotations

import re
from pathlib import Path

from luthier.core.errors import ModelError, NotFound, did_you_mean
from luthier.core.home import home
from luthier.models.catalog import BUNDLED, catalog

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.jinja",
]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def find(name: str, *, download: bool = False) -> Path:
    """The folder of a model.

    Args:
        name: of the catalog, of a local folder, of a folder under ``LUTHIER_HOME/models``, or ``maker/model`` on the Hugging Face hub.
        download: fetch it from the hub when it is not on this machine; never otherwise.

    Raises:
        NotFound: nothing has that name here; says how to get it.
        ModelError: the folder holds no safetensors weights.
    """
    if not name.strip():
        raise NotFound("The model's name is empty.", remedy="`luthier models` lists names; a folder does as well.", code="unknown_model")
    entry = catalog().get(name)
    if entry is not None and entry.bundled:
        return _bundled(name)
    for folder in (Path(name).expanduser(), home() / "models" / name):
        if folder.is_dir():
            return checked_folder(folder)
    repo = entry.repo if entry is not None else name
    if not _REPO.fullmatch(repo):
        raise NotFound(
            f"There is no model {name!r} here.", remedy=did_you_mean(name, catalog()) + " Or give a folder.", code="unknown_model"
        )
    return checked_folder(_from_hub(repo, name=name, download=download))


def checked_folder(folder: Path) -> Path:
    """`folder`, if it holds safetensors weights.

    Raises:
        ModelError: it does not. Pickled weights are never opened: loading one runs whatever it says.
    """
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"The weights are pickled ({', '.join(pickled[:3])}), and a pickle can run any code.",
            where=str(folder),
            remedy="Take the safetensors edition of the model, or convert it where you trust it.",
            code="pickled_weights",
        )
    raise ModelError(
        "There is no *.safetensors file.", where=str(folder), remedy="Give a folder in the Hugging Face layout.", code="no_weights"
    )


def local_models() -> list[tuple[str, Path]]:
    """Names and folders of models found on this machine: ``LUTHIER_HOME/models`` and the Hugging Face cache."""
    own = home() / "models"
    found = [(f.name, f) for f in sorted(own.iterdir()) if _is_model(f)] if own.is_dir() else []
    for repo in sorted(_hub_cache().glob("models--*--*")):
        snapshots = sorted((repo / "snapshots").glob("*"), key=lambda f: f.stat().st_mtime)
        if snapshots and _is_model(snapshots[-1]):
            found.append((repo.name.removeprefix("models--").replace("--", "/"), snapshots[-1]))
    return found


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))


def _bundled(name: str) -> Path:
    folder = BUNDLED / name
    if not folder.is_dir():
        raise NotFound(
            f"The bundled base {name!r} is missing from this installation.",
            where=str(folder),
            remedy="Install Luthier again, or make it with recipes/mini.",
            code="unknown_model",
        )
    return checked_folder(folder)


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _from_hub(repo: str, *, name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(repo, allow_patterns=_WANTED, local_files_only=not download))
    except LocalEntryNotFoundError as error:
        remedy = "The hub did not answer." if download else f"Fetch it once with: luthier models {name} --download"
        raise NotFound(f"{repo} is not on this machine.", remedy=remedy, code="unknown_model") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise NotFound(
            f"{repo} could not be fetched: {error}.", remedy="Check the name and the connection.", code="unknown_model"
        ) from error
