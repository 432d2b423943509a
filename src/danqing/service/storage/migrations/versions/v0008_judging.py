"""Sessions in which people judge pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create four tables."""
    op.create_table(
        "judging_sessions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("contestants", sa.Text(), nullable=False),
        sa.Column("captions", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("subjects", sa.Integer(), nullable=False),
        sa.Column("real", sa.Integer(), nullable=True),
        sa.Column("ballots", sa.Integer(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("stops", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_judging_sessions"),
    )
    op.create_table(
        "judging_raters",
        sa.Column("session", sa.String(40), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        _belongs("judging_raters"),
        sa.PrimaryKeyConstraint("session", "key", name="pk_judging_raters"),
    )
    op.create_table(
        "judging_pictures",
        sa.Column("session", sa.String(40), nullable=False),
        sa.Column("contestant", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("subject", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        _belongs("judging_pictures"),
        sa.PrimaryKeyConstraint("session", "contestant", "subject", name="pk_judging_pictures"),
    )
    op.create_table(
        "judging_ballots",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("session", sa.String(40), nullable=False),
        sa.Column("rater", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("contestants", sa.String(40), nullable=False),
        sa.Column("subject", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=True),
        sa.Column("expected", sa.Integer(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("answered", sa.Double(), nullable=True),
        sa.Column("best", sa.Integer(), nullable=True),
        sa.Column("worst", sa.Integer(), nullable=True),
        _belongs("judging_ballots"),
        sa.PrimaryKeyConstraint("id", name="pk_judging_ballots"),
        sa.UniqueConstraint("session", "rater", "number", name="uq_judging_ballots_session_rater_number"),
    )
    op.create_index("ix_judging_ballots_session_answered", "judging_ballots", ["session", "answered"])


def _belongs(table: str) -> sa.ForeignKeyConstraint:
    """Return the constraint that a row belongs to a session, and is deleted with it."""
    return sa.ForeignKeyConstraint(
        ["session"],
        ["judging_sessions.id"],
        f"fk_{table}_session_judging_sessions",
        ondelete="CASCADE",
    )
