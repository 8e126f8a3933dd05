"""What can be asked over HTTP: one file a resource, each with a ``router``. The folder is the list; `app.py` takes in what lies here.

An endpoint checks nothing that the gates (`server/gates`) or the types (`server/wire`) check, asks the floors below, and shows what they
say. Those that touch the database are plain functions, which FastAPI runs in threads; those that read a body as it comes are async.
"""

from __future__ import annotations

from luthier.core.registry import Folder

ENDPOINTS = Folder("luthier.server.endpoints", "endpoint")
