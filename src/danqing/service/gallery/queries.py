"""Reads the gallery; each function is one transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from danqing.service.gallery.store import find
from danqing.service.gallery.tables import (
    AlbumPicture,
    GalleryAlbum,
    GalleryFile,
    GalleryPicture,
    GalleryWord,
)

MOST_FOUND = 2000
"""A search counts and sorts at most so many pictures; with more, the latest come as they are found."""
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
    words = [_endings(session, search, word) for word in search.words[-1:]]
    words = [[word] for word in search.words[:-1]] + words
    if not all(words):
        return Found([], 0, False)
    query, total = _numbers(session, search, words)
    if before is not None:
        query = query.where(query.selected_columns[0] < before)
    query = query.order_by(query.selected_columns[0].desc()).offset(offset).limit(limit + 1)
    numbers = list(session.scalars(query))
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


def _numbers(session: Session, search: Search, words: list[list[str]]) -> tuple[Select[Any], int]:
    """Return a query for the numbers of pictures, and how many there are.

    A search begins with its rarest word; if even that is frequent, with the latest pictures, most of which
    then match.
    """
    picture = GalleryPicture
    plain = select(picture.number).where(picture.owner == search.owner)
    if search.rating:
        plain = plain.where(picture.rating >= search.rating)
    if search.hash is not None:
        plain = plain.where(picture.hash == search.hash)
    if search.album is not None:
        inside = select(AlbumPicture.number).where(AlbumPicture.album == search.album)
        plain = plain.where(picture.number.in_(inside))
    counts = [_count(session, _with(search, word)) for word in words]
    if not words:
        return plain, int(session.scalar(select(func.count()).select_from(plain.subquery())) or 0)
    if min(counts) < MOST_FOUND:
        rarest = counts.index(min(counts))
        plain = plain.where(picture.number.in_(_with(search, words.pop(rarest))))
    for word in words:
        hit = select(GalleryWord.number).where(GalleryWord.owner == search.owner, GalleryWord.word.in_(word))
        plain = plain.where(hit.where(GalleryWord.number == picture.number).exists())
    return plain, _count(session, plain)


def _with(search: Search, words: list[str]) -> Select[Any]:
    return select(GalleryWord.number).where(GalleryWord.owner == search.owner, GalleryWord.word.in_(words))


def _count(session: Session, query: Select[Any]) -> int:
    return int(session.scalar(select(func.count()).select_from(query.limit(MOST_FOUND).subquery())) or 0)
