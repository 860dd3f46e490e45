"""How Alembic gets to the database: it is given the connection, and the table of the version."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
