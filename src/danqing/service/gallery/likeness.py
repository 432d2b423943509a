"""Which of an owner's pictures look alike: nearest vectors, in memory."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from danqing.service.gallery import queries
from danqing.service.gallery.tables import GalleryPicture
from danqing.service.storage.database import Database
from danqing.trust.fingerprint import FREQUENCIES, LENGTH

_MOST_OWNERS = 4
_AT_ONCE = 5_000  # vectors of one transaction: SQLite blocks writers meanwhile
_COLOUR = 4.0
"""How much a mean colour counts, compared with a frequency, which sums over many pixels."""


@dataclass(slots=True)
class _Vectors:
    """The vectors of one owner: numbers `[n]`, rows `[n, LENGTH]` and their squared lengths `[n]`."""

    numbers: NDArray[np.int64]
    rows: NDArray[np.float32]
    squares: NDArray[np.float32]


class Likeness:
    """Finds pictures that look alike, by their coarse structure and colours.

    The vectors of the owners who searched last stay in memory: 400 bytes for each picture.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, _Vectors] = OrderedDict()

    async def nearest(self, owner: str, vector: bytes, count: int) -> list[int]:
        """Return an owner's pictures by number, the most similar first.

        vector: to which they are similar."""
        known = await self._read(owner)
        wanted = _scaled([vector])[0]
        distances = known.squares - 2 * (known.rows @ wanted)
        if not len(distances):
            return []
        best = np.argpartition(distances, min(count, len(distances)) - 1)[:count]
        return [int(known.numbers[one]) for one in sorted(best, key=lambda one: float(distances[one]))]

    def forget(self, owner: str) -> None:
        """Drop the vectors of an owner whose pictures were deleted."""
        self._known.pop(owner, None)

    async def _read(self, owner: str) -> _Vectors:
        """Return the vectors of an owner as they are now."""
        known = self._known.get(owner) or _Vectors(
            np.empty(0, np.int64), np.empty((0, LENGTH), np.float32), np.empty(0, np.float32)
        )
        last = int(known.numbers[-1]) if len(known.numbers) else 0
        if await self._database.run(_count_until, owner, last) != len(known.numbers):
            self.forget(owner)  # another server has deleted some
            return await self._read(owner)
        numbers, scaled = [known.numbers], [known.rows]
        while rows := await self._database.run(queries.vectors, owner, last, _AT_ONCE):
            last = rows[-1][0]
            numbers.append(np.array([number for number, _ in rows], np.int64))
            scaled.append(_scaled([vector for _, vector in rows]))
        if len(numbers) > 1:
            every = np.concatenate(scaled)
            known = _Vectors(np.concatenate(numbers), every, np.square(every).sum(1))
        self._known[owner] = known
        self._known.move_to_end(owner)
        while len(self._known) > _MOST_OWNERS:
            self._known.popitem(last=False)
        return known


def scaled(vectors: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return fingerprints `[n, LENGTH]` as points whose distances say how images differ."""
    values = vectors.astype(np.float32)
    values[:, FREQUENCIES**2 :] *= _COLOUR
    return values


def _scaled(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    return scaled(np.frombuffer(b"".join(vectors), "<i2").reshape(-1, LENGTH))


def _count_until(session: Session, owner: str, number: int) -> int:
    picture = GalleryPicture
    query = select(func.count()).where(picture.owner == owner, picture.number <= number)
    return int(session.scalar(query) or 0)
