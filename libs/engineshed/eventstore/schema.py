"""The tables of an event store; read models of the service stand beside them.

Positions come from the one row of `log_head`, not from an identity column: identity values become
visible out of order and leave holes on rollback, and a reader that follows them would skip events.
Whoever appends holds that row until it commits, so appends are serialized.

A change here needs a migration.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

LOG: Final = MetaData()

# SQLite's row id, and so its cheapest key, is a column of exactly this type.
_Position: Final = BigInteger().with_variant(Integer(), "sqlite")

# Moments are microseconds since 1970, UTC.
_Moment: Final = BigInteger()

log_head: Final = Table(
    "log_head",
    LOG,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", _Position, nullable=False),
    Column("recorded_at", _Moment, nullable=False),
    # Who may append, where several processes would: see leadership.py.
    Column("term", BigInteger, nullable=False, server_default="0"),
    Column("leader", String, nullable=False, server_default=""),
    Column("leads_until", _Moment, nullable=False, server_default="0"),  # the database's clock
    CheckConstraint("id = 1", name="log_head_is_one_row"),
)

events: Final = Table(
    "events",
    LOG,
    Column("position", _Position, primary_key=True, autoincrement=False),
    Column("event_id", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("previous_version", BigInteger),
    Column("type", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("actor", String, nullable=False),
    Column("org_id", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("traceparent", String, nullable=False),
    Column("causation_id", String, nullable=False),
    Column("recorded_at", _Moment, nullable=False),
    UniqueConstraint("event_id", name="events_event_id"),
    # An append that expects too old a version meets the unique key, one that expects a version
    # that is not there yet meets the foreign key: nothing has to be read before the insert.
    UniqueConstraint("stream", "version", name="events_stream_version"),
    ForeignKeyConstraint(
        ["stream", "previous_version"],
        ["events.stream", "events.version"],
        name="events_follow_each_other",
    ),
    Index("events_of_organization", "org_id", "position"),
)

# Clients make ids of requests so that they are sorted by time (ULIDs). Being first in the key, they
# put new rows side by side, where a transaction writes a few pages instead of one for each.
requests: Final = Table(
    "requests",
    LOG,
    Column("request_id", String, primary_key=True),
    Column("org_id", String, primary_key=True),
    Column("actor", String, primary_key=True),
    Column("method", String, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("recorded_at", _Moment, nullable=False),
    sqlite_with_rowid=False,
)

cursors: Final = Table(
    "cursors",
    LOG,
    Column("name", String, primary_key=True),
    Column("position", _Position, nullable=False),
    sqlite_with_rowid=False,
)
