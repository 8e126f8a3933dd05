"""What tests of security share."""

from __future__ import annotations

import pytest

from luthier.security import tenants
from luthier.store.audit import LOCAL, Deputy
from luthier.store.database import Database
from security.town import Town


@pytest.fixture
def town(database: Database) -> Town:
    """A database with two organisations; the first has two projects."""
    with database.write() as session:

        def project(home: str, name: str) -> Deputy:
            return Deputy("local", home, tenants.create_project(session, LOCAL, home, name).id)

        ours, theirs = (tenants.create_organisation(session, LOCAL, name).id for name in ("ours", "theirs"))
        return Town(database, project(ours, "desk"), project(ours, "lab"), project(theirs, "desk"))
