"""Changes of the gallery; each function is one transaction, or part of one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from danqing.service.errors import ApiError, invalid
from danqing.service.gallery.tables import (
    AlbumPicture,
    GalleryAlbum,
    GalleryFile,
    GalleryPicture,
    GalleryWord,
)
from danqing.service.gallery.words import words_of
from danqing.service.settings import GallerySettings

MOST_ALBUMS = 1000


@dataclass(frozen=True, slots=True)
class NewPicture:
    """A picture that may be kept.

    The fields are those of `GalleryPicture` and `GalleryFile`.
    """

    hash: str
    media_type: str
    width: int
    height: int
    model: str
    title: str
    settings: str
    words: tuple[str, ...]
    vector: bytes
    mark: str
    thumbnail: bytes
    content: bytes
    job: str = ""
    place: int = 0


class Stored(NamedTuple):
    """What must be deleted with a picture.

    mark: its id in the registry. job, place: the job that made it, and its number there.
    """

    number: int
    mark: str
    job: str
    place: int


class GalleryUsage(NamedTuple):
    """How many pictures an owner has, and their bytes."""

    pictures: int
    bytes: int


def usage(session: Session, owner: str) -> GalleryUsage:
    """Return what an owner's pictures take."""
    picture = GalleryPicture
    query = select(func.count(), func.coalesce(func.sum(picture.size), 0)).where(picture.owner == owner)
    count, total = session.execute(query).one()
    return GalleryUsage(int(count), int(total))


def keep(
    session: Session, owner: str, pictures: Sequence[NewPicture], limits: GallerySettings, now: float
) -> int:
    """Add pictures of an owner; return how many are there now.

    A file that is there already stays as it is. What exceeds the owner's limits is not kept.
    """
    used, kept = usage(session, owner), 0
    room, free = limits.pictures - used.pictures, limits.bytes - used.bytes
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for one in pictures:
        size = len(one.content)
        if room < 1 or size > free:
            continue
        row = {
            **{
                name: getattr(one, name)
                for name in ("hash", "media_type", "width", "height", "model", "title")
            },
            **{name: getattr(one, name) for name in ("settings", "vector", "mark", "job", "place")},
            **{"owner": owner, "created": now, "size": size, "tags": "[]", "rating": 0},
        }
        added = dialect.insert(GalleryPicture).values(row).on_conflict_do_nothing()
        number = session.scalar(added.returning(GalleryPicture.number))
        kept += 1
        if number is None:
            continue
        room, free = room - 1, free - size
        session.execute(
            insert(GalleryFile).values(number=number, thumbnail=one.thumbnail, content=one.content)
        )
        _add_words(session, owner, number, one.words)
    return kept


def change(
    session: Session, owner: str, number: int, rating: int | None, tags: Sequence[str] | None
) -> GalleryPicture:
    """Change a picture's rating and tags; None leaves them. Raises ApiError 404."""
    picture = find(session, owner, number)
    if rating is not None:
        picture.rating = rating
    if tags is not None:
        old, picture.tags = json.loads(picture.tags), json.dumps(list(tags), ensure_ascii=False)
        record = json.loads(picture.settings)
        others = words_of([picture.title, picture.model, *record.get("words", [])])
        gone = set(words_of(old)) - set(others)
        where = GalleryWord.owner == owner, GalleryWord.number == number, GalleryWord.word.in_(gone)
        session.execute(delete(GalleryWord).where(*where))
        _add_words(session, owner, number, words_of(tags))
    return picture


def find(session: Session, owner: str, number: int) -> GalleryPicture:
    """Return a picture of an owner.

    Raises ApiError 404, also for those of others.
    """
    picture = session.get(GalleryPicture, number) if 0 < number < 2**63 else None
    if picture is None or picture.owner != owner:
        raise ApiError(404, "The gallery has no such picture: GET /v1/gallery lists yours.", code="not_found")
    return picture


def stored(session: Session, owner: str, numbers: Iterable[int]) -> list[Stored]:
    """Return what must be deleted with an owner's pictures.

    Those that are not there are left out.
    """
    picture = GalleryPicture
    query = select(picture.number, picture.mark, picture.job, picture.place)
    rows = session.execute(query.where(picture.owner == owner, picture.number.in_(list(numbers))))
    return [Stored(*row) for row in rows]


def expired(session: Session, before: float, most: int) -> list[tuple[str, Stored]]:
    """Return pictures that were made before a time, with their owners."""
    picture = GalleryPicture
    query = select(picture.owner, picture.number, picture.mark, picture.job, picture.place)
    rows = session.execute(query.where(picture.created < before).limit(most))
    return [(owner, Stored(number, mark, job, place)) for owner, number, mark, job, place in rows]


def remove(session: Session, numbers: Iterable[int]) -> None:
    """Delete pictures with their files, words and places in albums."""
    gone = list(numbers)
    for table in (GalleryWord, AlbumPicture, GalleryFile, GalleryPicture):
        session.execute(delete(table).where(table.number.in_(gone)))


def create_album(session: Session, owner: str, name: str) -> GalleryAlbum:
    """Create an album.

    Raises ApiError 400 for a name that exists, or if there are too many.
    """
    albums = session.scalars(select(GalleryAlbum).where(GalleryAlbum.owner == owner)).all()
    if any(one.name == name for one in albums):
        raise invalid(f"There is an album {name} already.", "name")
    if len(albums) >= MOST_ALBUMS:
        raise invalid(f"There are {MOST_ALBUMS:,} albums already: delete one first.", "name")
    album = GalleryAlbum(owner=owner, name=name)
    session.add(album)
    session.flush()
    return album


def find_album(session: Session, owner: str, number: int) -> GalleryAlbum:
    """Return an album of an owner; raises ApiError 404."""
    album = session.get(GalleryAlbum, number) if 0 < number < 2**63 else None
    if album is None or album.owner != owner:
        raise ApiError(404, "The gallery has no such album.", code="not_found")
    return album


def delete_album(session: Session, owner: str, number: int) -> None:
    """Delete an album, not its pictures; raises ApiError 404."""
    album = find_album(session, owner, number)
    session.execute(delete(AlbumPicture).where(AlbumPicture.album == number))
    session.delete(album)


def fill_album(
    session: Session, owner: str, number: int, add: Sequence[int], take_out: Sequence[int]
) -> None:
    """Add the owner's pictures to an album, and take others out.

    Raises ApiError 404.
    """
    find_album(session, owner, number)
    own = {one.number for one in stored(session, owner, add)}
    if missing := set(add) - own:
        raise ApiError(404, f"The gallery has no picture {min(missing)}.", code="not_found")
    session.execute(
        delete(AlbumPicture).where(AlbumPicture.album == number, AlbumPicture.number.in_([*add, *take_out]))
    )
    for one in sorted(own):
        session.add(AlbumPicture(album=number, number=one))


def _add_words(session: Session, owner: str, number: int, words: Iterable[str]) -> None:
    rows = [{"owner": owner, "word": word, "number": number} for word in words]
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(GalleryWord).values(rows).on_conflict_do_nothing())
