"""When the painting of a job began, and when it may be tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add two columns."""
    op.add_column("jobs", sa.Column("begun", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("due", sa.Double(), nullable=True))
