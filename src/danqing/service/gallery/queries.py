"""Reads the gallery; each function is one transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from danqing.service.gallery.store import find
from danqing.service.gallery.tables import (
    AlbumPicture,
    GalleryAlbum,
    GalleryFile,
    GalleryPicture,
    GalleryWord,
)

MOST_FOUND = 2000
"""A search by words finds at most so many pictures, the latest."""
_MOST_COUNTED = 20_000
_MOST_ENDINGS = 20


@dataclass(frozen=True, slots=True)
class Search:
    """Which pictures of an owner are wanted.

    words: that each has; the last may be the beginning of one.
    album: the number of one. rating: the least. hash: of the file.
    """

    owner: str
    words: tuple[str, ...] = ()
    album: int | None = None
    rating: int = 0
    hash: str | None = None


class Found(NamedTuple):
    """A page of pictures, the latest first.

    total: how many there are; of a search by words at most MOST_FOUND. has_more: after this page.
    """

    pictures: list[GalleryPicture]
    total: int
    has_more: bool


def page(session: Session, search: Search, *, limit: int, before: int | None, offset: int) -> Found:
    """Return a page of pictures, the latest first.

    before: the number of a picture. offset: how many to leave out after it.
    """
    if search.words:
        known = _with_words(session, search)
        after = [number for number in known if before is None or number < before]
        numbers, total = after[offset : offset + limit + 1], len(known)
    else:
        query = _selected(search)
        total = int(session.scalar(select(func.count()).select_from(query.subquery())) or 0)
        if before is not None:
            query = query.where(GalleryPicture.number < before)
        latest = query.order_by(GalleryPicture.number.desc()).offset(offset).limit(limit + 1)
        numbers = list(session.scalars(latest))
    return Found(in_order(session, search.owner, numbers[:limit]), total, len(numbers) > limit)


def in_order(session: Session, owner: str, numbers: Sequence[int]) -> list[GalleryPicture]:
    """Return pictures of an owner in the order of their numbers here."""
    picture = GalleryPicture
    rows = session.scalars(select(picture).where(picture.number.in_(numbers), picture.owner == owner))
    found = {row.number: row for row in rows}
    return [found[number] for number in numbers if number in found]


def thumbnails(session: Session, numbers: Iterable[int]) -> dict[int, bytes]:
    """Return the small pictures by their number."""
    file = GalleryFile
    rows = session.execute(select(file.number, file.thumbnail).where(file.number.in_(list(numbers))))
    return {row.number: row.thumbnail for row in rows}


def content(session: Session, owner: str, number: int) -> tuple[GalleryPicture, bytes]:
    """Return a picture of an owner and its file; raises ApiError 404."""
    picture = find(session, owner, number)
    file = session.scalar(select(GalleryFile.content).where(GalleryFile.number == number))
    return picture, file or b""


def albums(session: Session, owner: str) -> list[tuple[GalleryAlbum, int]]:
    """Return an owner's albums by name, each with its number of pictures."""
    counted = select(AlbumPicture.album, func.count().label("count")).group_by(AlbumPicture.album).subquery()
    query = select(GalleryAlbum, func.coalesce(counted.c.count, 0))
    query = query.outerjoin(counted, counted.c.album == GalleryAlbum.number)
    rows = session.execute(query.where(GalleryAlbum.owner == owner).order_by(GalleryAlbum.name))
    return [(album, int(count)) for album, count in rows]


def vectors(session: Session, owner: str, after: int, most: int) -> list[tuple[int, bytes]]:
    """Return the numbers and vectors of an owner's next pictures."""
    picture = GalleryPicture
    query = select(picture.number, picture.vector).where(picture.owner == owner, picture.number > after)
    return [(row.number, row.vector) for row in session.execute(query.order_by(picture.number).limit(most))]


def _endings(session: Session, search: Search, start: str) -> list[str]:
    """Return the words that begin with `start`, at most some; each is one step in the index."""
    found: list[str] = []
    least, beyond = start, start[:-1] + chr(ord(start[-1]) + 1)
    while len(found) < _MOST_ENDINGS:
        query = select(func.min(GalleryWord.word)).where(GalleryWord.owner == search.owner)
        above = GalleryWord.word > found[-1] if found else GalleryWord.word >= least
        word = session.scalar(query.where(above, GalleryWord.word < beyond))
        if word is None:
            break
        found.append(word)
    return found


def _with_words(session: Session, search: Search) -> list[int]:
    """Return the numbers of pictures that have all words, the latest first, at most MOST_FOUND.

    The index of the rarest word is read in order, and the others are looked up for each of its pictures.
    """
    *whole, start = search.words
    groups = [[word] for word in whole] + [_endings(session, search, start)]
    if not all(groups):
        return []
    groups.sort(key=lambda group: _count(session, search, group))
    first = aliased(GalleryWord)
    query = select(first.number).where(first.owner == search.owner, _one_of(first.word, groups[0]))
    for group in groups[1:]:
        other = aliased(GalleryWord)
        hit = select(other.number).where(other.owner == search.owner, _one_of(other.word, group))
        query = query.where(hit.where(other.number == first.number).exists())
    if search.rating or search.hash is not None or search.album is not None:
        query = query.where(_selected(search).where(GalleryPicture.number == first.number).exists())
    if len(groups[0]) > 1:
        query = query.distinct()
    return list(session.scalars(query.order_by(first.number.desc()).limit(MOST_FOUND)))


def _selected(search: Search) -> Select[Any]:
    """Return a query for the numbers of pictures, whatever their words are."""
    picture = GalleryPicture
    query = select(picture.number).where(picture.owner == search.owner)
    if search.rating:
        query = query.where(picture.rating >= search.rating)
    if search.hash is not None:
        query = query.where(picture.hash == search.hash)
    if search.album is not None:
        inside = select(AlbumPicture.number).where(AlbumPicture.album == search.album)
        query = query.where(picture.number.in_(inside))
    return query


def _count(session: Session, search: Search, words: list[str]) -> int:
    """Return how many pictures have one of these words, at most _MOST_COUNTED."""
    query = select(GalleryWord.number).where(
        GalleryWord.owner == search.owner, _one_of(GalleryWord.word, words)
    )
    return int(session.scalar(select(func.count()).select_from(query.limit(_MOST_COUNTED).subquery())) or 0)


def _one_of(column: Any, words: list[str]) -> ColumnElement[bool]:
    found: ColumnElement[bool] = column == words[0] if len(words) == 1 else column.in_(words)
    return found
