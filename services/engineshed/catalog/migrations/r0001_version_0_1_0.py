"""The tables of the catalog in version 0.1.0."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("copying", sa.Boolean(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("reclaimed", sa.Boolean(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("checkpoint_id"),
        sa.UniqueConstraint("position"),
    )
    op.create_index(
        "checkpoints_of_organization", "checkpoints", ["org_id", "position"], unique=False
    )
    op.create_table(
        "holds",
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("holder_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("checkpoint_id", "holder_id"),
        sa.UniqueConstraint("position"),
    )
    op.create_index("holds_by_age", "holds", ["taken_at"], unique=False)
    op.create_table(
        "organizations",
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("org_id"),
        sa.UniqueConstraint("position"),
        sa.UniqueConstraint("slug"),
    )
    op.create_table(
        "registrations",
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("anywhere", sa.Boolean(), nullable=False),
        sa.Column("modified_ns", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("checkpoint_id"),
    )
    op.create_table(
        "token_hashes",
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("token_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("secret_sha256"),
        sa.UniqueConstraint("token_id"),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("changed_position", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("token_id"),
        sa.UniqueConstraint("position"),
    )
    op.create_index("tokens_of_organization", "tokens", ["org_id", "position"], unique=False)
