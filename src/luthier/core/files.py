"""Files that are either whole or not there: write beside, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from luthier.core.errors import LuthierError, StorageError


def _anybody() -> None:
    """No fence: whoever writes may."""


_fence: ContextVar[Callable[[], None]] = ContextVar("fence", default=_anybody)


@contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, in this thread, `check` is asked right before anything appears under its name; what it raises stops the writing."""
    before = _fence.set(check)
    try:
        yield
    finally:
        _fence.reset(before)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an error of the disk while writing `path` into a StorageError that says what to do. safetensors has its own name for one."""
    try:
        yield
    except LuthierError:  # some are OSErrors too
        raise
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"Could not write: {getattr(error, 'strerror', None) or error}.",
            where=str(path),
            remedy="Free some space or choose another folder (--out; LUTHIER_HOME for the cache); what was saved before is intact.",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Write a file of any size atomically, piece by piece: it appears under its name only when the block ends without an exception.

    Raises:
        StorageError: the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            _fence.get()()
            os.replace(part, path)
            sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never half.

    Raises:
        StorageError: the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    with writing(path) as sink:
        sink.write(content)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for indented JSON with a final newline."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; it appears under its own name, replacing an older one, only when complete.

    Yields:
        the temporary folder to write into. On any exception it is removed and an older `folder` is untouched.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with storing(folder):
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            yield part
            for file in sorted(part.rglob("*")):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            _fence.get()()
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                os.replace(folder, old)
                os.replace(part, folder)
                shutil.rmtree(old)
            else:
                os.replace(part, folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def sweep(folder: Path) -> None:
    """Clear away what a killed process left below `folder`: half-written files go, a folder it was about to replace comes back.

    Call it only while nobody writes there.
    """
    for left in sorted(folder.rglob(".*.part")) + sorted(folder.rglob(".*.old")):
        name = left.name[1:].rsplit(".", 2)[0]
        if not left.exists():
            continue  # gone with its folder: files of a half-written folder are written beside as well
        if left.suffix == ".old" and not (left.parent / name).exists():
            os.replace(left, left.parent / name)
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def sha256(path: Path) -> str:
    """Hash of a file's bytes, read in pieces, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while piece := source.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint(content: Any) -> str:
    """Hash of plain data, independent of key order, as hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
