"""The tables of the catalog's read models, beside the event store's own.

Records are kept as messages, with columns for what is asked by. `position` is that of the event
which began the object: lists are in its order.

A change here needs a migration.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, MetaData, String, Table

from engineshed.eventstore import Tables

METADATA: Final = MetaData()

TABLES: Final = Tables("catalog", METADATA, Path(__file__).parent / "migrations")

organizations: Final = Table(
    "organizations",
    METADATA,
    Column("org_id", String, primary_key=True),
    Column("slug", String, nullable=False, unique=True),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("record", LargeBinary, nullable=False),  # Organization
)

tokens: Final = Table(
    "tokens",
    METADATA,
    Column("token_id", String, primary_key=True),
    Column("org_id", String, nullable=False),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("changed_position", BigInteger, nullable=False),  # of its last event
    Column("record", LargeBinary, nullable=False),  # Token
    Index("tokens_of_organization", "org_id", "position"),
)

# No event carries it: events are public.
token_hashes: Final = Table(
    "token_hashes",
    METADATA,
    Column("secret_sha256", String, primary_key=True),
    Column("token_id", String, nullable=False, unique=True),
)

checkpoints: Final = Table(
    "checkpoints",
    METADATA,
    Column("checkpoint_id", String, primary_key=True),
    Column("org_id", String, nullable=False),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("deleted", Boolean, nullable=False),
    Column("copying", Boolean, nullable=False),  # its registration is to go on
    Column("failed", Boolean, nullable=False),
    Column("reclaimed", Boolean, nullable=False),
    Column("record", LargeBinary, nullable=False),  # Checkpoint, without progress
    Index("checkpoints_of_organization", "org_id", "position"),
)

# How a source was allowed and found to be: a registration that is resumed needs the very same.
registrations: Final = Table(
    "registrations",
    METADATA,
    Column("checkpoint_id", String, primary_key=True),
    Column("anywhere", Boolean, nullable=False),  # an operator asked for it
    Column("modified_ns", LargeBinary, nullable=False),  # JSON: of each file
)

holds: Final = Table(
    "holds",
    METADATA,
    Column("checkpoint_id", String, primary_key=True),
    Column("holder_id", String, primary_key=True),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("taken_at", BigInteger, nullable=False),  # microseconds since 1970
    Index("holds_by_age", "taken_at"),
)
