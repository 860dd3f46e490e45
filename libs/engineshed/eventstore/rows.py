"""Writing many rows at once.

SQLAlchemy looks at every value of every row, which takes longer than the database does.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; each has the values of all columns of the table, as the driver takes them.

    Raises:
        IntegrityError: a key noticed a conflict; none of the rows may be relied on.

    """
    if rows:
        connection.exec_driver_sql(_insert(table, connection.dialect), list(rows))


@cache
def _insert(table: Table, dialect: Dialect) -> str:
    quote = dialect.identifier_preparer.quote
    columns = ", ".join(quote(column.name) for column in table.columns)
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    values = ", ".join([mark] * len(table.columns))
    return f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({values})"  # noqa: S608 - names
