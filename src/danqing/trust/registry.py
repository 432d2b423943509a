"""The images that were generated here: found again by their pixels, with or without their marks.

It is a file of SQLite that many processes may write. For each image it holds an id, a hash and a vector of
the pixels, the time, the model, the action and the id of the manifest. It holds no prompts and no pixels.
"""

import contextlib
import hashlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from danqing.errors import DanqingError
from danqing.trust import fingerprint
from danqing.trust.declaration import Declaration
from danqing.trust.fingerprint import FREQUENCIES, LENGTH, Query, Values

_VERSION = 1
_BUSY_SECONDS = 10.0
_SHORT = (1 << 24) - 1
"""Small images carry so many bits of a number."""
_COMPANIONS = ("-wal", "-shm")
"""What the files end in that SQLite keeps beside a database."""
_TABLES = (
    """create table if not exists images (
    place integer primary key autoincrement,
    id text not null unique,
    number integer not null,
    digest text not null,
    vector blob not null,
    time text not null,
    action text not null,
    model text not null,
    model_digest text not null,
    manifest text not null
)""",
    "create index if not exists images_by_digest on images (digest)",
    f"create index if not exists images_by_number on images (number & {_SHORT})",
)
_ADD = (
    "insert into images (id, number, digest, vector, time, action, model, model_digest, manifest) "
    "values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ENTRY = "id, time, action, model, model_digest, manifest"

_COARSE, _REMOVED = 6, 3
"""Frequencies along each axis that choose candidates, and those that do not decide between them."""
_CANDIDATES = 64
_BLOCK = 4096
"""Rows whose products stay in the processor's cache."""
_DIFFERENT = 0.09
"""The most that a copy's fine structure differs, as a share of its energy."""
_AHEAD = 0.5
"""The most that a copy may differ as a share of what the nearest other image differs (Lowe 2004)."""
_SAME = 0.005
"""Entries that differ by less are the same image, registered again."""
_COLOUR = 30.0
_FAINT = 256.0
"""The least energy of fine structure: the square of one level in each of the 16 x 16 cells."""


class RegistryError(DanqingError):
    """The registry cannot be read or written."""


class Entry(NamedTuple):
    """A registered image.

    time: when it was registered, as ISO 8601 in UTC. action, model, model_digest: as of `Declaration`.
    manifest: the id of its Content Credentials, "" for none.
    """

    id: str
    time: str
    action: str
    model: str
    model_digest: str
    manifest: str


class Match(NamedTuple):
    """A registered image that equals another one, or is its original.

    exact: whether all pixels are equal. similarity: of the fine structure, in [0, 1].
    """

    entry: Entry
    exact: bool
    similarity: float


def number_of(image_id: str) -> int:
    """Return the number of 48 bits that an image's watermark carries."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:6], "big")


@lru_cache(8)
def shared(path: Path) -> "Registry":
    """Return the registry of a file, one for the whole process."""
    return Registry(path)


class Registry:
    """The registry in a file.

    The file is created when the first image is added. Where it is deleted or replaced while it is open, the
    next call opens the file that is there then.

    path: of the file, with mode 0600. Threads may share a registry, and processes the file.
    All methods raise RegistryError if the file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._identity: _Identity = None
        self._companions = dict[Path, _Identity]()
        self._rows = _Rows()

    def __repr__(self) -> str:
        return f"Registry({str(self.path)!r})"

    def __len__(self) -> int:
        if self._is_missing():
            return 0
        with self._opened() as connection:
            return int(connection.execute("select count(*) from images").fetchone()[0])

    def add(
        self,
        pixels: NDArray[Any],
        declaration: Declaration,
        *,
        image_id: str | None = None,
        number: int | None = None,
        manifest: str = "",
    ) -> str:
        """Add an image; return its id.

        pixels: uint8 or uint16 `[h, w, c]`, as the file shows them.
        declaration: its action and model are stored, never its prompt.
        image_id: a new one by default. number: that its watermark carries, by default `number_of` the id.
        manifest: the id of its Content Credentials.
        """
        image_id = image_id or uuid.uuid4().hex
        row = (
            image_id,
            number_of(image_id) if number is None else number,
            fingerprint.pixel_digest(pixels),
            fingerprint.vector(pixels).astype("<i2").tobytes(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            declaration.action,
            declaration.model,
            declaration.model_digest,
            manifest,
        )
        with self._opened() as connection:
            connection.execute(_ADD, row)
            if not self._is_current():  # the file was deleted or replaced meanwhile, and the row with it
                with self._opened() as another:
                    another.execute(_ADD, row)
        return image_id

    def remove(self, ids: Iterable[str]) -> int:
        """Delete images by their ids; return how many were there."""
        if self._is_missing():
            return 0
        count = 0
        with self._opened() as connection:
            for image_id in ids:
                count += connection.execute("delete from images where id = ?", (image_id,)).rowcount
            self._rows = _Rows()  # it held vectors of what is gone
        return count

    def find(self, pixels: NDArray[Any], limit: int = 5) -> list[Match]:
        """Return the registered images that an image shows, the most similar first.

        There are none where two different images would fit about as well, and none that are only similar
        where the image has no fine structure.

        pixels: as of `add`; compressed, resized or cropped copies are found too. limit: at most so many.
        """
        if self._is_missing():
            return []
        digest = fingerprint.pixel_digest(pixels)
        with self._opened() as connection:
            exact = connection.execute(
                f"select {_ENTRY} from images where digest = ? order by place desc limit ?", (digest, limit)
            ).fetchall()
            if exact:
                return [Match(Entry(*entry), True, 1.0) for entry in exact]
            self._rows.extend(connection)
            rows = self._rows.copy()
        nearest = rows.nearest(fingerprint.query(pixels), limit)
        with self._opened() as connection:
            marks = ", ".join("?" * len(nearest))
            found = connection.execute(
                f"select place, {_ENTRY} from images where place in ({marks})",
                [place for place, _ in nearest],
            )
            entries = {place: Entry(*entry) for place, *entry in found}
        return [Match(entries[place], False, similarity) for place, similarity in nearest if place in entries]

    def numbered(self, number: int, bits: int, limit: int = 5) -> list[Entry]:
        """Return the images whose watermark carries a number, the latest first.

        There may be several: a short number is shared by one in 16 million images, and the same image has
        the same number each time it is registered.

        number: as a watermark was read. bits: how many of its lowest bits were read, 24 to 48.
        limit: at most so many.
        """
        if self._is_missing():
            return []
        read = (1 << bits) - 1
        with self._opened() as connection:
            found = connection.execute(
                f"select {_ENTRY} from images where number & {_SHORT} = ? and number & ? = ? "
                "order by place desc limit ?",
                (number & _SHORT, read, number & read, limit),
            )
            return [Entry(*entry) for entry in found]

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Return the connection of this process, and keep other threads from it."""
        with self._lock, self._explained():
            if self._connection is None or self._process != os.getpid() or not self._is_current():
                self._open()
            assert self._connection is not None
            yield self._connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise RegistryError where the file cannot be used."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RegistryError(
                f"The registry of images {self.path} cannot be used ({error}): check the file, its "
                "permissions and the free space of the disk."
            ) from error

    def _is_missing(self) -> bool:
        """Return whether there is no file."""
        with self._explained():
            return _identity(self.path) is None

    def _is_current(self) -> bool:
        """Return whether the file is the one that is open."""
        return _identity(self.path) == self._identity

    def _open(self) -> None:
        """Open the file, and create it where it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.close()
        # Other processes may create the file at the same time.
        with FileLock(f"{self.path}.lock", timeout=_BUSY_SECONDS, mode=0o600):
            found = _identity(self.path)
            for companion in _companions(self.path):
                # Those of a file that is gone would be taken for those of the file that is there now.
                is_stale = found is None or _identity(companion) == self._companions.get(companion, 0)
                if is_stale and found != self._identity:
                    companion.unlink(missing_ok=True)
            if found is None:
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = _connect(self.path)
        self._rows = _Rows()
        self._connection, self._process, self._identity = connection, os.getpid(), _identity(self.path)
        self._companions = {companion: _identity(companion) for companion in _companions(self.path)}


_Identity = tuple[int, int] | None
"""What tells a file from another one of the same name; None where there is none."""


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


class _Rows:
    """The vectors of all images in memory, to be searched.

    Rows are only added: a copy stays valid while the original grows.
    """

    def __init__(self) -> None:
        self._last = 0
        self._count = 0
        self._places = np.empty(0, np.int64)
        self._vectors = np.empty((0, LENGTH), np.int16)
        self._coarse = np.empty((0, _COARSE**2 - 1), np.float32)

    def copy(self) -> "_Rows":
        """Return the rows as they are now."""
        rows = _Rows()
        rows.__dict__.update(self.__dict__)
        return rows

    def extend(self, connection: sqlite3.Connection) -> None:
        """Read what was registered since the last call."""
        fresh = connection.execute(
            "select place, vector from images where place > ? and length(vector) = ? order by place",
            (self._last, 2 * LENGTH),
        ).fetchall()
        if not fresh:
            return
        count = self._count + len(fresh)
        if count > len(self._places):
            room = max(count, self._count + self._count // 2)
            self._places, self._vectors, self._coarse = (
                _grown(old, self._count, room) for old in (self._places, self._vectors, self._coarse)
            )
        some = slice(self._count, count)
        self._places[some] = [place for place, _ in fresh]
        content = b"".join(vector for _, vector in fresh)
        self._vectors[some] = np.frombuffer(content, "<i2").reshape(-1, LENGTH)
        self._coarse[some] = _coarse(self._vectors[some, : FREQUENCIES**2].astype(np.float32))
        self._count, self._last = count, fresh[-1][0]

    def nearest(self, query: Query, limit: int) -> list[tuple[int, float]]:
        """Return the places in the table and the similarities of the images that a query shows."""
        if not self._count:
            return []
        rows = self._candidates(_coarse(query.luminance[query.sparse]))
        vectors = self._vectors[rows].astype(np.float32)
        stored, shown = _fine(vectors[:, : FREQUENCIES**2]), _fine(query.luminance)
        every = _differences(stored, shown)
        crop = every.argmin(1)
        difference = every[np.arange(len(rows)), crop]
        colour = np.abs(vectors[:, FREQUENCIES**2 :] - query.colours[crop]).max(1)
        fits = (colour <= _COLOUR) & ((stored**2).sum(1) >= _FAINT)
        rows, stored, difference = rows[fits], stored[fits], difference[fits]
        if not len(rows) or difference.min() > _DIFFERENT:
            return []
        best = int(difference.argmin())
        same = _differences(stored, stored[best][None])[:, 0] <= _SAME
        if (difference[~same] * _AHEAD < difference[best]).any():
            return []
        order = np.flatnonzero(same)[difference[same].argsort()][:limit]
        return [(int(self._places[rows[row]]), float(1 - difference[row])) for row in order]

    def _candidates(self, queries: Values) -> NDArray[np.int64]:
        """Return the rows that are nearest to any query by coarse structure."""
        if self._count <= _CANDIDATES:
            return np.arange(self._count)
        best = np.empty(self._count, np.float32)
        for start in range(0, self._count, _BLOCK):
            some = slice(start, min(start + _BLOCK, self._count))
            products = self._coarse[some] @ queries.T
            np.maximum.reduce(products.T.copy(), out=best[some])  # a copy: maxima of long rows are faster
        return np.argpartition(best, -_CANDIDATES)[-_CANDIDATES:]


def _coarse(luminance: Values) -> Values:
    """Return the lowest frequencies without the mean, as unit vectors."""
    square = luminance.reshape(-1, FREQUENCIES, FREQUENCIES)[:, :_COARSE, :_COARSE]
    vectors = square.reshape(len(luminance), -1)[:, 1:]
    units: Values = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return units


def _fine(luminance: Values) -> Values:
    """Return the frequencies that differ between images that look alike from afar."""
    square = luminance.reshape(-1, FREQUENCIES, FREQUENCIES).copy()
    square[:, :_REMOVED, :_REMOVED] = 0
    return square.reshape(len(luminance), -1)


def _differences(one: Values, other: Values) -> Values:
    """Return 2 |a - b|² / (|a|² + |b|²) of all pairs, `[n, m]`."""
    energy = ((one**2).sum(1)[:, None] + (other**2).sum(1)) / 2
    differences: Values = 2 - 2 * (one @ other.T) / np.maximum(energy, 1e-6)
    return differences.clip(0)


def _grown(old: NDArray[Any], count: int, room: int) -> NDArray[Any]:
    new = np.empty((room, *old.shape[1:]), old.dtype)
    new[:count] = old[:count]
    return new


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file, and bring it to the current version."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )  # without an isolation level, each statement is a transaction
    try:
        connection.execute("pragma journal_mode = wal")
        # A power failure may lose the last entries, and no more.
        connection.execute("pragma synchronous = normal")
        version = connection.execute("pragma user_version").fetchone()[0]
        if version > _VERSION:
            raise sqlite3.DatabaseError("a newer version of Danqing wrote it")
        if version < _VERSION:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"pragma user_version = {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection
