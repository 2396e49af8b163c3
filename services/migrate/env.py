"""Runs migrations on the connection that services.migrate hands over; Alembic loads this file."""

from alembic import context

from services.core.runs.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
