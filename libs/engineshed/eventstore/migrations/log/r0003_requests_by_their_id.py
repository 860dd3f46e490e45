"""Requests in the order of their own ids, which clients make so that they are sorted by time."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """Make the table anew: a key cannot be changed everywhere."""
    op.create_table(
        "requests_by_id",
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "org_id", "actor", "method"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO requests_by_id "
        "SELECT request_id, org_id, actor, method, request_hash, response, recorded_at "
        "FROM requests"
    )
    op.drop_table("requests")
    op.rename_table("requests_by_id", "requests")
