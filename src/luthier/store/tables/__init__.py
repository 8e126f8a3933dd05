"""The tables, one file for each part of the service: import a table from its file. `Table.metadata` knows all once this is imported."""

from luthier.store.tables import batches, chats, files, jobs, models, operation, tenants
from luthier.store.tables._base import Table

__all__ = ["Table", "batches", "chats", "files", "jobs", "models", "operation", "tenants"]
