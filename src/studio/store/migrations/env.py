"""Alembic's entry: always on a connection that `studio.store.migrations` hands over."""

from alembic import context

from studio.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction is the only one
)
context.run_migrations()
