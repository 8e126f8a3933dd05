"""Pictures and sounds that rows name: found, checked and kept apart from the words. A row holds a reference, never the picture itself.

    {"image": "photos/17.png", "label": "cat"}                                   a path beside the file of rows
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}     the picture in the row; kept in the cache by its hash
    {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}     a sound in the row, as OpenAI writes it

Addresses of the network are refused: nothing is fetched. Rows that came in through the service may not name files of the machine it runs
on, so their pictures lie in the rows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.core.example import Medium
from luthier.core.files import write_bytes
from luthier.core.home import cache_folder, home
from luthier.data import pictures, sounds
from luthier.data.readers._findings import Findings

KINDS = {"image": "a picture", "audio": "a sound"}

MOST_BYTES = 64 << 20
"""A file may have so many bytes."""


def picture(value: object, field: str, file: str, findings: Findings, *, kind: Literal["image", "audio"] = "image") -> Medium | None:
    """The picture that a field names, if it is there and decodes; otherwise the finding says what is wrong.

    Args:
        value: a path relative to the file of rows (or absolute), or a ``data:`` address; or an object with either as ``url`` or ``path``.
        file: of rows, as the user named it.
    """
    named = value.get("url", value.get("path")) if isinstance(value, dict) else value
    if not isinstance(named, str) or not named.strip():
        findings.wrong_type(field, f"a path or a data address of {KINDS[kind]}", value)
        return None
    try:
        path = _kept(named) if named.startswith("data:") else _beside(named, file)
        digest, rate = _checked(str(path), path.stat().st_mtime_ns, kind)
    except OSError:
        findings.add(field, "no_picture", f"There is no file {named!r}.", "Correct the path; it begins at the folder of the file of rows.")
        return None
    except DataError as error:
        findings.add(field, error.code, error.what, error.remedy)
        return None
    if rate not in (0, sounds.USUAL_RATE):
        what = f"The sound has {rate:,} samples a second; it is resampled to what the model hears, mostly {sounds.USUAL_RATE:,}."
        findings.add(field, "resampled", what, "Nothing to do; what a low rate left out does not come back.", "warning")
    return Medium(kind, str(path), digest)


def sound(value: object, field: str, file: str, findings: Findings) -> Medium | None:
    """The sound that a field names, as `picture` does; OpenAI's ``data`` without an address is base64 too."""
    if isinstance(value, dict) and isinstance(value.get("data"), str):
        value = value["data"] if value["data"].startswith("data:") else f"data:audio/wav;base64,{value['data']}"
    return picture(value, field, file, findings, kind="audio")


def content_of(medium: Medium) -> bytes:
    """The bytes of a picture that was checked.

    Raises:
        DataError: it is gone, or is another one now.
    """
    try:
        content = Path(medium.path).read_bytes()
    except OSError as error:
        raise DataError("A picture is gone.", where=medium.path, remedy="Bring it back.", code="no_picture") from error
    if hashlib.sha256(content).hexdigest()[: len(medium.digest)] != medium.digest:
        what = "A picture is not the one that was checked: its file has changed."
        raise DataError(what, where=medium.path, remedy="Bring the old one back, or begin anew.", code="no_picture")
    return content


class Pictures:
    """Pictures as a network reads them, the latest kept: an epoch later the same ones are asked for again."""

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self.most_bytes, self._kept, self._bytes = (
            most_bytes,
            OrderedDict[tuple[str, pictures.Plan | sounds.Plan], NDArray[np.float32]](),
            0,
        )

    def get(self, reference: str, plan: pictures.Plan | sounds.Plan) -> NDArray[np.float32]:
        """The picture, read now or remembered. Raises as `content_of`."""
        key = (reference, plan)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        content = content_of(Medium.parse(reference))
        found = sounds.features(content, plan) if isinstance(plan, sounds.Plan) else pictures.pixels(content, plan)
        self._kept[key] = found
        self._bytes += found.nbytes
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


def _beside(named: str, file: str) -> Path:
    if "://" in named and not named.startswith("file://"):
        raise DataError(
            f"The picture lies on the network ({named[:60]}), and nothing is fetched.",
            remedy="Load it down, and give its path or a data address.",
            code="remote_media",
        )
    folder = Path(file).parent
    if any(home().resolve() in place.parents for place in (Path(file).absolute(), Path(file).resolve())):
        what = "Rows that came in by upload cannot name files of this machine."
        raise DataError(what, remedy="Write pictures into the rows, as data addresses.", code="remote_media")
    return (folder / named.removeprefix("file://")).resolve()


def _kept(address: str) -> Path:
    """The picture of a ``data:`` address, in the cache under its hash."""
    head, _, body = address.partition(",")
    try:
        content = base64.b64decode(body, validate=True) if head.endswith(";base64") else b""
    except binascii.Error:
        content = b""
    if not content:
        what = "The data address holds no base64."
        remedy = "Write data:image/png;base64, (or audio/wav) and the file's bytes in base64 behind it."
        raise DataError(what, remedy=remedy, code="bad_picture")
    path = cache_folder() / "media" / hashlib.sha256(content).hexdigest()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    return path


@lru_cache(maxsize=65536)
def _checked(path: str, changed: int, kind: str) -> tuple[str, int]:
    """Hash of a file that decodes, and a sound's rate; what many rows name is looked at once."""
    if Path(path).stat().st_size > MOST_BYTES:
        raise DataError(f"The file is larger than {MOST_BYTES >> 20} MB.", remedy="Make it smaller.", code="bad_picture")
    content = Path(path).read_bytes()
    rate = sounds.look(content)[0] if kind == "audio" else 0
    if kind == "image":
        pictures.look(content)
    return hashlib.sha256(content).hexdigest()[: 2 * Medium.DIGEST_BYTES], rate
