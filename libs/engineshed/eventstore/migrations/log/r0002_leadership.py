"""Who may append, where several processes would."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """Add the term and the lease to the head of the log; nobody leads yet."""
    op.add_column(
        "log_head", sa.Column("term", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column("log_head", sa.Column("leader", sa.String(), server_default="", nullable=False))
    op.add_column(
        "log_head", sa.Column("leads_until", sa.BigInteger(), server_default="0", nullable=False)
    )
