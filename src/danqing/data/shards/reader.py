"""Reading shards: which images a data set takes of them, and what takes the place of those that are bad."""

import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data.cache import default_folder
from danqing.data.shards import table as tables
from danqing.data.shards.arrivals import Arrivals, disk_limit
from danqing.data.shards.shard_file import FOOTER_BYTES, ShardIndex
from danqing.data.shards.stores import MissingFileError, PatientStore, StoreError, is_url, open_store
from danqing.data.shards.table import Table, read_table
from danqing.errors import DataError

_INDEXES_KEPT = 256
_AT_ONCE = 2**24


class ShardWarning(UserWarning):
    """A shard, or an image in one, that is left out."""


class Part(NamedTuple):
    """The images that a data set takes of some shards.

    They are in the order of their digests.

    shards: their numbers, `[s]`. first, counts: which images of each.
    """

    shards: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def images(self) -> int:
        """Return the number of images."""
        return int(self.counts.sum())

    def split(self, fraction: float) -> tuple["Part", "Part"]:
        """Return the rest, and a fraction of the images of each shard.

        The fraction has the smallest digests.

        Fractions of images are carried from shard to shard, so that the whole has the right number.
        """
        borders = np.round(np.cumsum(self.counts) * fraction).astype(np.int64)
        held = np.minimum(np.diff(borders, prepend=0), self.counts)
        rest = Part(self.shards, self.first + held, self.counts - held)
        return rest, Part(self.shards, self.first, held)

    def some(self, most_shards: int, most_images: int) -> "Part":
        """Return a few images of a few shards, evenly spread."""
        there = np.flatnonzero(self.counts)
        chosen = there[
            np.unique(np.linspace(0, len(there) - 1, min(most_shards, len(there))).astype(np.int64))
        ]
        counts = np.minimum(self.counts[chosen], max(1, most_images // len(chosen)))
        return Part(self.shards[chosen], self.first[chosen], counts)


class Place(NamedTuple):
    """An image: the number of its shard, and its place in there."""

    shard: int
    image: int


class Reader:
    """The shards at a place, of which some may be bad.

    place: a folder or a URL. cache: the folder for copies, by default one among the caches.
    Raises DataError if the table of the shards cannot be read.
    """

    def __init__(self, place: str | Path, cache: Path | None = None) -> None:
        store = open_store(place)
        self.place = store.place
        self._store = PatientStore(store, tables.NAME)
        self.table = _read_table(store.place, self._store)
        folder = (cache or default_folder()) / "shards" / self.table.digest[:32]
        self.arrivals = Arrivals(self._store, self.table, folder, disk_limit())
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._lock = threading.Lock()
        self.bad: dict[int, str] = {}
        """Why a shard is left out, by its number."""
        self._reported, self._whole = set[int](), set[int]()

    def index(self, shard: int) -> ShardIndex | None:
        """Return the index of a shard; None if the shard is bad.

        A bad shard is reported once.
        """
        if shard in self.bad:
            return None
        try:
            arrived = self.arrivals.get(shard)
            return self._remote_index(shard) if arrived is None else arrived.index
        except StoreError:
            raise
        except DataError as error:
            self._leave_out(shard, str(error))
            return None

    def content(self, place: Place) -> tuple[bytes, bytes] | None:
        """Return an image and its partner; None if the shard is bad."""
        index = self.index(place.shard)
        if index is None:
            return None
        try:
            arrived = self.arrivals.get(place.shard)
            if arrived is not None:
                content = arrived.read(place.image)
            else:
                content = self._store.read(self.table.name(place.shard), *index.span(place.image))
                if not index.is_intact(place.image, content):
                    raise DataError(f"Its image {index.names[place.image]!r} has changed.")
        except StoreError:
            raise
        except DataError as error:
            self._leave_out(place.shard, str(error))
            return None
        length = int(index.lengths[place.image])
        return content[:length], content[length:]

    def is_whole(self, shard: int) -> bool:
        """Return whether a shard is good, after reading all of it once."""
        index = self.index(shard)
        if index is None or shard in self._whole or self.arrivals.has([shard]):
            return index is not None
        spans = [index.span(number) for number in range(len(index))]
        try:
            first = 0
            while first < len(spans):
                last = first + 1
                while last < len(spans) and spans[last][1] - spans[first][0] <= _AT_ONCE:
                    last += 1
                content = self._store.read(self.table.name(shard), spans[first][0], spans[last - 1][1])
                for number in range(first, last):
                    start, end = (edge - spans[first][0] for edge in spans[number])
                    if not index.is_intact(number, content[start:end]):
                        raise DataError(f"Its image {index.names[number]!r} has changed.")
                first = last
        except StoreError:
            raise
        except DataError as error:
            self._leave_out(shard, str(error))
            return False
        self._whole.add(shard)
        return True

    def name(self, place: Place) -> str:
        """Return the name of an image of a good shard."""
        index = self.index(place.shard)
        return "" if index is None else index.names[place.image]

    def report_image(self, place: Place, reason: str) -> None:
        """Report the first image of a shard that cannot be used."""
        with self._lock:
            is_new = place.shard not in self._reported
            self._reported.add(place.shard)
        if is_new:
            warnings.warn(
                f"The image {self.name(place)!r} of {self.table.name(place.shard)} at {self.place} is left "
                f"out, and perhaps others of this shard: {_uncapitalised(reason)}",
                ShardWarning,
                stacklevel=2,
            )

    def _remote_index(self, shard: int) -> ShardIndex:
        with self._lock:
            found = self._indexes.get(shard)
            if found is not None:
                self._indexes.move_to_end(shard)
                return found
        length = int(self.table.sizes[shard])
        start = length - int(self.table.index_bytes[shard]) - FOOTER_BYTES
        index = self.table.read_index(shard, self._store.read(self.table.name(shard), start, length))
        with self._lock:
            self._indexes[shard] = index
            while len(self._indexes) > _INDEXES_KEPT:
                self._indexes.popitem(last=False)
        return index

    def _leave_out(self, shard: int, reason: str) -> None:
        with self._lock:
            is_new = shard not in self.bad
            self.bad[shard] = reason
        if is_new:
            warnings.warn(
                f"The shard {self.table.name(shard)} at {self.place} is left out, with its "
                f"{self.table.images[shard]:,} images: {_uncapitalised(reason)}",
                ShardWarning,
                stacklevel=2,
            )


def has_shards(place: str | Path) -> bool:
    """Return whether a folder holds shards; a URL is taken to."""
    return is_url(place) or (Path(place) / tables.NAME).is_file()


def _read_table(place: str, store: PatientStore) -> Table:
    """Read the table; an address without one is a mistake of the user."""
    where = f"{place.rstrip('/')}/{tables.NAME}"
    try:
        content = store.store.read(tables.NAME, 0, tables.MOST_BYTES)
    except MissingFileError as error:
        raise DataError(
            f"There are no shards at {place} ({error}): write some with danqing data shard."
        ) from error
    except DataError:
        raise
    except Exception as error:  # each store has errors of its own
        raise DataError(
            f"{where} cannot be read ({type(error).__name__}): check the address and the network."
        ) from error
    return read_table(content, where)


def _uncapitalised(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
