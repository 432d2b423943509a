"""The tables of the gallery. Everything of a picture is in the database: a deletion is one transaction."""

from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from danqing.service.storage.database import Base

NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only by INTEGER
_WORD = String(40).with_variant(
    String(40, collation="C"), "postgresql"
)  # ordered by characters, as in SQLite


class GalleryPicture(Base):
    """A picture and what it was made with.

    number: increases with time and is never used again.
    hash: SHA-256 of the file in hexadecimal digits; size: its bytes.
    title: what was requested, in a few words.
    settings: the request in JSON; see `danqing.service.requests.record`.
    tags: in JSON. rating: 0 to 5, 0 for none.
    vector: of `danqing.trust.fingerprint`, int16 in little-endian.
    mark: the id of the picture in the registry, "" for none.
    job, place: the job that made it and the picture's number there; "" and 0 for none.
    """

    __tablename__ = "gallery_pictures"
    __table_args__ = (
        UniqueConstraint("owner", "hash"),
        Index(None, "owner", "number", "rating", "size"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    owner: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Double, index=True)
    media_type: Mapped[str] = mapped_column(String(16))
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int] = mapped_column(BigInteger)
    model: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    settings: Mapped[str] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text)
    rating: Mapped[int]
    vector: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    mark: Mapped[str] = mapped_column(String(64))
    job: Mapped[str] = mapped_column(String(40))
    place: Mapped[int]


class GalleryFile(Base):
    """The file of a picture, and a small WebP of it."""

    __tablename__ = "gallery_files"

    number: Mapped[int] = mapped_column(
        NUMBER,
        ForeignKey("gallery_pictures.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    thumbnail: Mapped[bytes] = mapped_column(LargeBinary)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class GalleryWord(Base):
    """A word by which a picture is found."""

    __tablename__ = "gallery_words"
    __table_args__ = ({"sqlite_with_rowid": False},)

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    word: Mapped[str] = mapped_column(_WORD, primary_key=True)
    number: Mapped[int] = mapped_column(
        NUMBER,
        ForeignKey("gallery_pictures.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        index=True,
    )


class GalleryAlbum(Base):
    """A named collection of an owner's pictures."""

    __tablename__ = "gallery_albums"
    __table_args__ = (UniqueConstraint("owner", "name"), {"sqlite_autoincrement": True})

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))


class AlbumPicture(Base):
    """A picture in an album."""

    __tablename__ = "gallery_album_pictures"

    album: Mapped[int] = mapped_column(
        NUMBER, ForeignKey("gallery_albums.number", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(
        NUMBER,
        ForeignKey("gallery_pictures.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        index=True,
    )
