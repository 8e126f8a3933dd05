"""Files of the service: upload, list, show, content, report, delete."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.verbs._place import Json, Project, Url, placed

if TYPE_CHECKING:
    from luthier.store.tables.files import File

app = typer.Typer(help="Files of the service: upload, list, show, content, report, delete.", no_args_is_help=True, add_completion=False)
