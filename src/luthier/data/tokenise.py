"""From examples to a token table in the cache.

A table is named by the hash of everything that decides its content, appears only when complete, and is made again when it is damaged. The
rows of a large file are shared out to several processes; the table is the same, but for the number of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from luthier.core.errors import DataError, StorageError
from luthier.core.example import Example
from luthier.core.files import fingerprint, new_folder, write_json
from luthier.core.spec import DataSpec
from luthier.data import ledger as ledgers
from luthier.data.blocks import blocks
from luthier.data.ledger import Ledger
from luthier.data.pool import Answer, Pool, workers
from luthier.data.refusals import Refusals, teaches_nothing
from luthier.data.render import Renderer
from luthier.data.select import Selected
from luthier.data.tokens import SCHEMA, Records, TokenTable, checksum_of
from luthier.data.too_long import Fitted, fit
from luthier.data.turns import Strand

CODE = (
    "tokenizer",
    "words",
    "folder",
    "template",
    "outline",
    "shape",
    "turns",
    "paths",
    "render",
    "too_long",
    "select",
    "tokenise",
    "tokens",
    "ledger",
)
"""Files that decide token ids: a change in any of them makes older tables stale."""


KEPT_DAYS = 30
"""A table nobody has opened for so long is removed when the next one is made."""

BATCH = 2048
"""Rows rendered and encoded together, and paths per record batch: enough to keep the batch encoder busy, some 5 MB."""


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
    name = fingerprint([key, renderer.fingerprint, code_version(), data.learn, data.too_long, context])
    folder = cache / name[:32]
    if folder.is_dir():
        try:
            return TokenTable.open(folder)
        except StorageError:
            pass  # damaged: made again, and replaced as a whole
    _purge(cache)
    count = workers(examples.path, examples.recognition) if isinstance(examples, Selected) else 0
    with new_folder(folder) as part:
        if isinstance(examples, Selected) and count:
            ledger = _shared_out(part, count, examples, renderer, data, context, on_progress)
        else:
            ledger, errors = _write(part / "tokens.arrow", examples, renderer, data, context, on_progress)
            errors.raise_if_any()
        ledgers.save(ledger.table(), part / "ledger.parquet")
        files = sorted(file.name for file in part.iterdir())
        write_json(part / "meta.json", {"checksums": {file: checksum_of(part / file) for file in files}})
    return TokenTable.open(folder)


def _purge(cache: Path) -> None:
    """Remove tables that nobody has opened for long, and what a killed process left of one."""
    border = time.time() - KEPT_DAYS * 86_400
    for folder in cache.iterdir() if cache.is_dir() else ():
        with contextlib.suppress(OSError):  # another process may be at it; a cache that stays too large harms nothing
            known = folder / "meta.json" if (folder / "meta.json").exists() else folder
            if known.stat().st_mtime < border:
                shutil.rmtree(folder)


def _shared_out(
    folder: Path,
    count: int,
    rows: Selected,
    renderer: Renderer,
    data: DataSpec,
    context: int,
    on_progress: Callable[[int, int], None] | None,
) -> Ledger:
    """The rows of a large file by several processes, a part of the table for each block."""
    task = {
        "work": "tokenise",
        "parts": renderer.parts.to_json(),
        "rows": rows.to_json(),
        "data": data.model_dump(mode="json"),
        "context": context,
        "fingerprint": renderer.fingerprint,
    }
    ledger, errors, tokens = Ledger(), Refusals(), 0
    wanted = np.array(sorted(rows.rows), np.int64) if rows.rows is not None else None
    parts = list(blocks(rows.path))
    ends = [part.row for part in parts[1:]] + [1 << 62]
    requests = (
        {"block": list(part), "to": str(folder / f"tokens-{number:05d}.arrow"), "wanted": _packed(wanted, part.row, end)}
        for number, (part, end) in enumerate(zip(parts, ends, strict=True))
    )
    with Pool(count, task) as pool:
        for fields, arrays in pool.answers(requests):
            ledger.absorb(arrays[0])
            errors.absorb(fields["refused"], fields["first"])
            tokens += fields["tokens"]
            if on_progress:
                on_progress(ledger.rows, tokens)
    errors.raise_if_any()
    return ledger


def _packed(wanted: NDArray[np.int64] | None, first: int, end: int) -> str | None:
    """Which rows of a block are wanted: a bit for each, as text."""
    if wanted is None:
        return None
    inside = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, end)] - first
    bits = np.zeros(int(inside[-1]) + 1 if len(inside) else 0, bool)
    bits[inside] = True
    return b64encode(np.packbits(bits).tobytes()).decode()


def write_block(file: Path, rows: Selected, renderer: Renderer, data: DataSpec, context: int, wanted: str | None) -> Answer:
    """The work of one process for `_shared_out`: a block's part of the table, and its lines of the ledger."""
    if wanted is not None and rows.block is not None:
        bits = np.unpackbits(np.frombuffer(b64decode(wanted), np.uint8))
        rows = replace(rows, rows=frozenset((np.flatnonzero(bits) + rows.block.row).tolist()))
    ledger, errors = _write(file, rows, renderer, data, context, None)
    told = {"refused": errors.count, "first": [error.to_json() for error in errors.first], "tokens": ledger.tokens}
    return told, [ledger.told()]


def _write(
    file: Path,
    examples: Iterable[Example],
    renderer: Renderer,
    data: DataSpec,
    context: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Ledger, Refusals]:
    ledger, errors, records = Ledger(), Refusals(), Records()
    rows = iter(examples)
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
        while batch := list(islice(rows, BATCH)):
            for example, fitted in _fitted(batch, renderer, data, context, errors):
                learned = ledger.add(example.source, fitted.sequences, cut=fitted.cut, reason=fitted.reason)
                if fitted.sequences and not learned:
                    errors.add(teaches_nothing(example.source))
                elif fitted.sequences:
                    records.add(example.source, fitted.sequences)
            for record in records.batch():
                writer.write_batch(record)
            if on_progress:
                on_progress(ledger.rows, ledger.tokens)
    return ledger, errors


def _fitted(batch: list[Example], renderer: Renderer, data: DataSpec, context: int, errors: Refusals) -> Iterator[tuple[Example, Fitted]]:
    """Rows of a batch that render, their texts encoded together."""
    rows: list[tuple[Example, list[Strand] | DataError]] = []
    for example in batch:
        try:
            rows.append((example, renderer.strands(example, learn=data.learn)))
        except DataError as error:
            rows.append((example, error))
    renderer.warm(strand for _, strands in rows if isinstance(strands, list) for strand in strands)
    for example, strands in rows:
        try:
            if isinstance(strands, DataError):
                raise strands
            sequences = [sequence for strand in strands for sequence in renderer.lay(strand)]
            yield example, fit(renderer, example, sequences, learn=data.learn, context=context, policy=data.too_long)
        except DataError as error:
            errors.add(error)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash of the source files that decide token ids."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
