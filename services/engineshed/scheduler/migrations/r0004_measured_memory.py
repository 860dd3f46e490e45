"""What engines were seen to take of their GPUs is kept."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "measurements",
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("checkpoint_digest", sa.String(), nullable=False),
        sa.Column("gpu_type", sa.String(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("quantization", sa.String(), nullable=False),
        sa.Column("max_context", sa.BigInteger(), nullable=False),
        sa.Column("max_batch_size", sa.BigInteger(), nullable=False),
        sa.Column("max_batch_tokens", sa.BigInteger(), nullable=False),
        sa.Column("engine_backend", sa.String(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "org_id",
            "checkpoint_digest",
            "gpu_type",
            "gpu_count",
            "precision",
            "quantization",
            "max_context",
            "max_batch_size",
            "max_batch_tokens",
            "engine_backend",
        ),
        sqlite_with_rowid=False,
    )
