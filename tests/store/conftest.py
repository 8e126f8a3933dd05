"""What tests of the store and of security share."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from luthier.security import tenants
from luthier.store.audit import LOCAL, Deputy
from luthier.store.blobs import Blobs
from luthier.store.database import Database


@pytest.fixture
def who(database: Database) -> Deputy:
    """Somebody who acts in a project."""
    with database.write() as session:
        home = tenants.create_organisation(session, LOCAL, "ours")
        return Deputy("key_ours", home.id, tenants.create_project(session, LOCAL, home.id, "ours").id)


@pytest.fixture
def stranger(database: Database, who: Deputy) -> Deputy:
    """Somebody who acts in another project of the same organisation."""
    with database.write() as session:
        return Deputy("key_theirs", who.organisation_id, tenants.create_project(session, LOCAL, str(who.organisation_id), "theirs").id)


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Blobs:
    """Blobs in a folder, and in what obstore keeps in memory, which is a bucket to us."""
    if request.param == "folder":
        return Blobs.open(database, str(tmp_path / "blobs"))
    return Blobs(database, MemoryStore(), folder=None, incoming=tmp_path / "incoming")
