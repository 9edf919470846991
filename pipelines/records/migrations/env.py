"""How Alembic reaches the records database.

`pipelines.records.database.migrate` hands over a connection. From a shell there is none, and the
database of the settings is used.
"""

from alembic import context
from sqlalchemy import Connection

from pipelines.records.database import connect
from pipelines.records.tables import metadata
from pipelines.settings import settings


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite cannot alter a column in place; Alembic then copies the table.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with connect(settings().records).begin() as opened:
        run(opened)
