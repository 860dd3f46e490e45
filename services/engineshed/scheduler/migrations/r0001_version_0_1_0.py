"""The tables of the scheduler in version 0.1.0."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "endpoints",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("routing_key", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("terminated_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("endpoint_id"),
        sa.UniqueConstraint("routing_key"),
    )
    op.create_index("endpoints_of_organization", "endpoints", ["org_id", "position"], unique=False)
    op.create_index("endpoints_terminated", "endpoints", ["terminated_at"], unique=False)
    op.create_table(
        "gpus",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("gpu", sa.Integer(), nullable=False),
        sa.Column("replica_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "gpu"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_gpus_replica_id"), "gpus", ["replica_id"], unique=False)
    op.create_table(
        "heard",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holds",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id"),
        sqlite_with_rowid=False,
    )
