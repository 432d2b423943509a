"""All tables of the first service."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From an empty database."""
