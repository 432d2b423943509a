"""The gallery: pictures with their settings, files, words and albums."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WORD = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    """Create five tables."""
    op.create_table(
        "gallery_pictures",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("media_type", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("mark", sa.String(64), nullable=False),
        sa.Column("job", sa.String(40), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_gallery_pictures"),
        sa.UniqueConstraint("owner", "hash", name="uq_gallery_pictures_owner_hash"),
        sqlite_autoincrement=True,
    )
    columns = ["owner", "number", "rating", "size"]
    op.create_index("ix_gallery_pictures_owner_number_rating_size", "gallery_pictures", columns)
    op.create_index("ix_gallery_pictures_created", "gallery_pictures", ["created"])
    op.create_table(
        "gallery_files",
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("thumbnail", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_gallery_files"),
        _of("gallery_files", "number", "gallery_pictures"),
    )
    op.create_table(
        "gallery_words",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("word", _WORD, nullable=False),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("owner", "word", "number", name="pk_gallery_words"),
        _of("gallery_words", "number", "gallery_pictures"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_gallery_words_number", "gallery_words", ["number"])
    op.create_table(
        "gallery_albums",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_gallery_albums"),
        sa.UniqueConstraint("owner", "name", name="uq_gallery_albums_owner_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "gallery_album_pictures",
        sa.Column("album", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("album", "number", name="pk_gallery_album_pictures"),
        _of("gallery_album_pictures", "album", "gallery_albums"),
        _of("gallery_album_pictures", "number", "gallery_pictures"),
    )
    op.create_index("ix_gallery_album_pictures_number", "gallery_album_pictures", ["number"])


def _of(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_{column}_{other}"
    return sa.ForeignKeyConstraint([column], [f"{other}.number"], name=name, ondelete="CASCADE")
