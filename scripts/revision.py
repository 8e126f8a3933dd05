#!/usr/bin/env python3
"""Write the next step of the tables: what store/tables has and the last step of store/migrations has not.

    python scripts/revision.py "jobs know their price"

Look at what it wrote: a renamed column looks to it like one that went and one that came.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command

from luthier.store.upgrade import configuration, heads, open_database


def main(message: str) -> None:
    """Bring an empty SQLite file to the last step and compare it with the tables."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'luthier.db'}")
        with database.engine.connect() as connection:
            number = f"{int(heads() or 0) + 1:04}"
            step = command.revision(configuration(connection), message, autogenerate=True, rev_id=number)
        database.close()
    file = Path(step.path)
    file.write_text("".join(line for line in file.open() if "###" not in line))
    subprocess.run([sys.executable, "-m", "ruff", "format", file], check=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or sys.exit(__doc__))
