"""Token tables in the cache: each is named by the hash of everything that decides its content, and appears only when it is complete.

`luthier.data.check` makes the table of a file while it reads it; `tokenise` makes one of examples that are already read.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

from luthier.core.errors import DataError, StorageError
from luthier.core.example import Example
from luthier.core.files import fingerprint, new_folder, write_json
from luthier.core.spec import DataSpec
from luthier.data import ledger as ledgers
from luthier.data.ledger import Ledger
from luthier.data.press import BATCH, Press
from luthier.data.refusals import Refusals
from luthier.data.render import Renderer
from luthier.data.tokens import TokenTable, checksums

KEPT_DAYS = 30
"""A table nobody has opened for so long is removed when the next one is made."""


def tokenise(
    examples: Iterable[Example],
    *,
    renderer: Renderer,
    data: DataSpec,
    context: int,
    cache: Path,
    key: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenTable:
    """Render, encode and keep rows; the same question again is answered from the cache without reading `examples`.

    Args:
        context: longest path in tokens. data: ``learn`` and ``too_long`` are honoured here.
        cache: folder for tables; any of them can be deleted at any time.
        key: hash of the data behind `examples` (their file's content and which rows of it).
        on_progress: hears rows and tokens done, every `BATCH` rows.

    Raises:
        DataError: rows that are too long, refused by the template, not fully rendered, or teach nothing; all of them are counted
            and the first 20 named. Nothing is kept then.
        StorageError: the cache cannot be written.
    """
    press = Press(renderer, data, context=context)
    folder = cache / name_of(press, key)
    known = opened(folder)
    if known is not None:
        return known
    rows, errors = iter(examples), Refusals()
    with made(folder) as part:
        with press.into(part / "tokens.arrow") as ledger:
            while batch := list(islice(rows, BATCH)):
                for _, found in press.rows(batch):
                    if isinstance(found, DataError):
                        errors.add(found)
                if on_progress:
                    on_progress(ledger.rows, ledger.tokens)
        errors.raise_if_any()
        complete(part, ledger)
    return TokenTable.open(folder)


def name_of(press: Press, key: str) -> str:
    """The name of the table that a press makes of the data that `key` stands for."""
    data = press.data
    asked = [key, press.renderer.fingerprint, code_version(), data.learn, data.too_long, press.context, press.pairs]
    return fingerprint(asked)[:32]


def opened(folder: Path) -> TokenTable | None:
    """The table there, if it is whole."""
    if folder.is_dir():
        with contextlib.suppress(StorageError):  # damaged: made again, and replaced as a whole
            return TokenTable.open(folder)
    return None


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `folder` when it is complete, and vanishes on an error."""
    _purge(folder.parent)
    with new_folder(folder) as part:
        yield part


def complete(part: Path, ledger: Ledger) -> None:
    """Write what makes files of tokens a table."""
    ledgers.save(ledger.table(), part / "ledger.parquet")
    write_json(part / "meta.json", {"checksums": checksums(part, [file.name for file in part.iterdir()])})


def _purge(cache: Path) -> None:
    """Remove tables that nobody has opened for long, and what a killed process left of one."""
    border = time.time() - KEPT_DAYS * 86_400
    for folder in cache.iterdir() if cache.is_dir() else ():
        with contextlib.suppress(OSError):  # another process may be at it; a cache that stays too large harms nothing
            known = folder / "meta.json" if (folder / "meta.json").exists() else folder
            if known.stat().st_mtime < border:
                shutil.rmtree(folder)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash of this folder's source: a change in any of it makes older tables stale."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
