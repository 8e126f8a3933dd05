"""The process that looks at one file of rows: ``python -m luthier.server.look PATH NAME`` prints the report as JSON.

It takes its own limits before it reads a byte; PATH is ours, NAME is what its user calls it and is only printed.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from pathlib import Path

MEMORY = 4 << 30
"""Bytes of addresses the process may take. Rows are read one at a time: this is far more than it needs, and less than the machine has."""
KEPT = 100
"""Problems of one kind that a report keeps; all are counted."""


def main(path: Path, name: str) -> None:
    """Look, and print."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)  # whoever is chatting goes first

    import orjson

    from luthier.core.spec import DataSpec
    from luthier.data.check import check

    found = check(path, data=DataSpec()).to_json()
    kept: Counter[str] = Counter()
    problems = []
    for problem in found["problems"]:
        kept[problem["code"]] += 1
        if kept[problem["code"]] <= KEPT:
            problems.append(problem | {"file": name})
    found |= {"file": name, "problems": problems}
    sys.stdout.buffer.write(orjson.dumps(found, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
