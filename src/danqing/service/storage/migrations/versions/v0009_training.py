"""Data sets, and runs that train on them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create two tables."""
    op.create_table(
        "training_sets",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("home", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(16), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_sets"),
    )
    op.create_index("ix_training_sets_home_owner", "training_sets", ["home", "owner"])
    op.create_table(
        "training_runs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("home", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(16), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("set_name", sa.String(80), nullable=False),
        sa.Column("preset", sa.String(80), nullable=False),
        sa.Column("minutes", sa.Double(), nullable=True),
        sa.Column("images", sa.BigInteger(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("model", sa.String(120), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_runs"),
    )
    op.create_index("ix_training_runs_home_state", "training_runs", ["home", "state"])
