"""What Alembic runs: our tables, on the connection that store/upgrade.py or scripts/revision.py hands over."""

from alembic import context

from luthier.store.tables import Table

VERSION_TABLE = "luthier_revision"
"""Not Alembic's usual name: the database may be shared with programs that use that."""

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite changes a table by making it anew
    transactional_ddl=True,  # SQLite's is, too; Alembic is more careful than needed
)
with context.begin_transaction():
    context.run_migrations()
