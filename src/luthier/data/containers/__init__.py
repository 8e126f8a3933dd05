"""How rows lie in a file: as lines, in an array, in a table. One file per way; what a row *means* is the readers' business.

A container is a module with

* ``fits(head: Head) -> Fit | None``: does this file look like one of mine, how surely, and why; ``Fit.details`` is what it found out
  (delimiter, encoding, header ...), reported to the user and handed back to `records`;
* ``records(stream, details) -> Iterator[Record | Flaw]``: the rows, streaming, in memory that does not grow with the file. A row that
  cannot be read is a `Flaw` in its place, and reading goes on with the next; the whole file is never given up for one row.

To add one: a file here, and rows for it in ``tests/data/test_read_containers.py``.
"""
