"""An endpoint that changes its checkpoint holds both for a while."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """Make the checkpoint a part of the key, which SQLite can only do by a new table."""
    held = op.get_bind().execute(sa.text("SELECT endpoint_id, checkpoint_id FROM holds")).all()
    op.drop_table("holds")
    holds = op.create_table(
        "holds",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", "checkpoint_id"),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(holds, [row._asdict() for row in held])
