"""The tables, one file for each part of the service. Import a table from its file; with this package imported, `Table.metadata` knows all."""

from luthier.store.tables import batches, chats, files, jobs, models, operation, tenants
from luthier.store.tables._base import Table

__all__ = ["Table", "batches", "chats", "files", "jobs", "models", "operation", "tenants"]
