"""From batches of examples to token paths and lines of the ledger: most rows together (`data.mould`), the odd ones one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError
from luthier.core.example import Example
from luthier.core.spec import DataSpec
from luthier.data.columns import SCHEMA, Columns, Records
from luthier.data.ledger import Ledger
from luthier.data.mould import Moulds
from luthier.data.pairs import chosen_only
from luthier.data.refusals import teaches_nothing
from luthier.data.render import Renderer
from luthier.data.too_long import Fitted, fit
from luthier.data.turns import Strand

BATCH = 2048
"""Rows laid out together, and rows per record batch: enough to make whole columns pay, some 5 MB."""

Told = tuple[Example, DataError | Fitted]
"""A row that is not taken as it is: refused, or made to fit."""


class Press:
    """Rows to tokens, for one model.

    Args:
        data: ``learn`` and ``too_long`` are honoured here. context: longest path in tokens.
        pairs: pairs stay pairs; else their chosen answer is read.
    """

    def __init__(self, renderer: Renderer, data: DataSpec, *, context: int, pairs: bool = True) -> None:
        self.renderer, self.data, self.context, self.pairs = renderer, data, context, pairs
        self.ledger = Ledger()
        self._moulds = Moulds(renderer, data.learn)
        self._write: Callable[[list[Example], Columns], None] = lambda *_: None

    @contextmanager
    def into(self, file: Path | None) -> Iterator[Ledger]:
        """Meanwhile rows are written to a new file, if any, and entered into a new ledger."""
        self.ledger, records = Ledger(), Records()
        if file is None:
            yield self.ledger
            return
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
            self._write = lambda rows, columns: writer.write_batch(records.batch([row.source for row in rows], columns))
            yield self.ledger

    def rows(self, batch: Sequence[Example]) -> list[Told]:
        """Lay out some rows; returns those that are not taken as they are."""
        rows = list(batch) if self.pairs else [chosen_only(row, learn=self.data.learn) for row in batch]
        columns, odd = self._moulds.lay(rows)
        long = columns.owners[columns.lengths > self.context].tolist()
        paths, told, fitted = [], list[Told](), dict[int, Fitted]()
        for place, found in self._one_by_one(rows, sorted({*odd, *long})):
            if isinstance(found, Fitted):
                fitted[place] = found
                paths += [(place, sequence) for sequence in found.sequences]
            if isinstance(found, DataError) or found.reason:
                told.append((rows[place], found))
        columns = columns.without(long).merged(Columns.of(paths))
        return told + self._enter(rows, columns, fitted)

    def _enter(self, rows: list[Example], columns: Columns, fitted: dict[int, Fitted]) -> list[Told]:
        """Account for the rows and write them; returns those that teach nothing."""
        total, learned = columns.sums(len(rows))
        cut, reasons = np.zeros(len(rows), np.int64), [""] * len(rows)
        for place, found in fitted.items():
            cut[place], reasons[place] = found.cut, found.reason
        entered = [place for place, tokens in enumerate(total.tolist()) if tokens or reasons[place]]
        some = np.array(entered, np.int64)
        sources = [rows[place].source for place in entered]
        self.ledger.enter(sources, total[some], learned[some], cut=cut[some], reasons=[reasons[place] for place in entered])
        if len(columns.owners):
            self._write(rows, columns)
        return [(rows[place], teaches_nothing(rows[place].source)) for place in np.flatnonzero((total > 0) & (learned == 0)).tolist()]

    def _one_by_one(self, rows: list[Example], places: list[int]) -> Iterator[tuple[int, Fitted | DataError]]:
        """Some rows the long way, but for their texts, which are encoded together."""
        renderer, learn = self.renderer, self.data.learn
        strands: list[list[Strand] | DataError] = []
        for place in places:
            try:
                strands.append(renderer.strands(rows[place], learn=learn))
            except DataError as error:
                strands.append(error)
        renderer.warm(strand for some in strands if isinstance(some, list) for strand in some)
        for place, some in zip(places, strands, strict=True):
            try:
                if isinstance(some, DataError):
                    raise some
                sequences = [sequence for strand in some for sequence in renderer.lay(strand)]
                yield place, fit(renderer, rows[place], sequences, learn=learn, context=self.context, policy=self.data.too_long)
            except DataError as error:
                yield place, error
