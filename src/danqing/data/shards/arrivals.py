"""Shards on this machine: fetched ahead by threads, checked once, and deleted beyond a limit of bytes."""

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from io import BufferedReader
from pathlib import Path

import filelock

from danqing import atomic
from danqing.data.shards.shard_file import FOOTER_BYTES, ShardIndex
from danqing.data.shards.stores import PatientStore, StoreError
from danqing.data.shards.table import ENDING, Table
from danqing.errors import ConfigError, DataError

DISK_BYTES = 16 * 2**30
_BLOCK = 2**24
_THREADS = 4


def disk_limit() -> int:
    """Return how many bytes of shards are kept on disk.

    This is `$DANQING_SHARDS_DISK` in GiB, by default 16 GiB.
    """
    text = os.environ.get("DANQING_SHARDS_DISK", "")
    try:
        chosen = float(text) * 2**30 if text else float(DISK_BYTES)
    except ValueError:
        chosen = -1.0
    if not 0 < chosen < 2**60:
        raise ConfigError(f"DANQING_SHARDS_DISK is {text!r}: give a number of GiB, such as 16.")
    return int(chosen)


class OpenShard:
    """A whole shard that was checked, open for reading at any offset.

    It stays open if its file is deleted.
    """

    def __init__(self, file: BufferedReader, index: ShardIndex) -> None:
        self.index, self._file = index, file
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def read(self, place: int) -> bytes:
        """Return the bytes of an image and its partner."""
        start, end = self.index.span(place)
        with self._lock:
            self._file.seek(start)
            content = bytearray(end - start)
            view, done = memoryview(content), 0
            while done < len(content) and (count := self._file.readinto(view[done:])):
                done += count
        if done != len(content):
            raise DataError("It ends too early.")
        return bytes(content)


class Arrivals:
    """The shards that are wanted now and next.

    Shards in a folder of this machine are read where they are. Others are copied into `folder`, four at a
    time, as far as they fit into `limit` bytes. Every shard is checked when it arrives, by the digest of each
    of its images: it is good or it is left out, as a whole.
    """

    def __init__(self, store: PatientStore, table: Table, folder: Path, limit: int) -> None:
        self._store, self._table, self.folder, self._limit = store, table, folder, limit
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = 0
        weakref.finalize(self, _end, self._queue, store)
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._arriving: dict[int, Future[OpenShard]] = {}

    def want(self, now: Sequence[int], following: Sequence[int] = ()) -> None:
        """Fetch shards, in this order.

        now: those that are needed. following: those that are needed next, as far as there is room.
        Raises DataError if `now` takes more bytes than the limit.
        """
        wanted = [*now, *following]
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            room = self._limit
            for number, shard in enumerate(wanted):
                room -= self._bytes(shard)
                if room < 0 and number < len(now):
                    raise DataError(
                        f"The {len(now)} shards of a window take more than the {self._limit / 2**30:.3g} GiB "
                        "that shards may take on disk: lower data.window in a new run, or raise "
                        "DANQING_SHARDS_DISK."
                    )
                if room < 0:
                    wanted = wanted[:number]
                    break
            self._drop(set(wanted))
            for shard in wanted:
                if shard not in self._arriving:
                    arriving = self._arriving[shard] = Future[OpenShard]()
                    self._queue.put((arriving, self._fetch, shard))
            while wanted and self._threads < _THREADS:
                # Not an executor: at the end of a process, that would first fetch everything in its queue.
                threading.Thread(target=_work, args=(self._queue,), daemon=True).start()
                self._threads += 1

    def get(self, shard: int) -> OpenShard | None:
        """Wait for a shard that was wanted; None for any other.

        Raises DataError if the shard is not good.
        """
        with self._lock:
            arriving = self._arriving.get(shard)
        try:
            return None if arriving is None else arriving.result()
        except CancelledError:  # it is no longer wanted
            return None

    def has(self, shards: Iterable[int]) -> bool:
        """Return whether shards are wanted, all of them."""
        with self._lock:
            return all(shard in self._arriving for shard in shards)

    def _bytes(self, shard: int) -> int:
        return 0 if self.is_here(shard) else int(self._table.sizes[shard])

    def is_here(self, shard: int) -> bool:
        """Return whether the store is on this machine."""
        return self._store.store.local(self._table.name(shard)) is not None

    def _drop(self, kept: set[int]) -> None:
        """Forget shards that are no longer wanted, and delete their copies if room is short."""
        for shard in [one for one in self._arriving if one not in kept]:
            arriving = self._arriving.pop(shard)
            arriving.cancel()
        if not self.folder.is_dir():
            return
        names = {self._copy(shard).name for shard in kept}
        found = list[tuple[float, int, Path]]()
        for path in self.folder.glob(f"*{ENDING}"):
            with contextlib.suppress(OSError):  # another process may delete it meanwhile
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        needed = sum(self._bytes(shard) for shard in kept)
        excess = needed + sum(size for _, size, path in found if path.name not in names) - self._limit
        for _, size, path in sorted(found):
            if excess > 0 and path.name not in names:
                with contextlib.suppress(OSError):
                    path.unlink()
                excess -= size

    def _copy(self, shard: int) -> Path:
        digest = self._table.digests[shard].tobytes().hex()[:32]
        return self.folder / f"{digest}{ENDING}"

    def _fetch(self, shard: int) -> OpenShard:
        name = self._table.name(shard)
        place = self._store.store.local(name)
        if place is not None:
            return self._checked(shard, place)
        place = self._copy(shard)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / f"{place.stem}.lock"):  # two processes fetch it once
                if place.exists():
                    with contextlib.suppress(DataError):
                        return self._checked(shard, place)
                self._download(shard, name, place)
                try:
                    return self._checked(shard, place)
                except DataError:
                    place.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise StoreError(
                f"Shards cannot be kept in {self.folder} ({error.strerror or error}): make room there, or "
                "set DANQING_CACHE to another folder."
            ) from error

    def _download(self, shard: int, name: str, place: Path) -> None:
        length = int(self._table.sizes[shard])
        atomic.remove_leftovers_of(place)
        with atomic.replacing(place) as file:
            for start in range(0, length, _BLOCK):
                file.write(self._store.read(name, start, min(start + _BLOCK, length)))

    def _checked(self, shard: int, place: Path) -> OpenShard:
        """Open a shard after reading all of it."""
        length, tail = int(self._table.sizes[shard]), int(self._table.index_bytes[shard]) + FOOTER_BYTES
        try:
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(open(place, "rb"))
                actual = os.fstat(file.fileno()).st_size
                if actual != length:
                    what = "truncated" if actual < length else "changed"
                    raise DataError(f"It has {actual:,} bytes instead of {length:,}: it is {what}.")
                file.seek(length - tail)
                index = self._table.read_index(shard, file.read(tail))
                file.seek(0)
                for number in range(len(index)):
                    start, end = index.span(number)
                    if not index.is_intact(number, file.read(end - start)):
                        raise DataError(f"Its image {index.names[number]!r} has changed.")
                undo.pop_all()  # it stays open
                return OpenShard(file, index)
        except FileNotFoundError as error:
            raise DataError("It is missing.") from error
        except OSError as error:
            raise DataError(f"It cannot be read ({error.strerror or error}).") from error


_Work = tuple[Future[OpenShard], Callable[[int], OpenShard], int]


def _work(tasks: "queue.SimpleQueue[_Work | None]") -> None:
    while (task := tasks.get()) is not None:
        arriving, fetch, shard = task
        if arriving.set_running_or_notify_cancel():
            try:
                arriving.set_result(fetch(shard))
            except BaseException as error:
                arriving.set_exception(error)
        del task, arriving, fetch  # which keep a shard and its owner open


def _end(tasks: "queue.SimpleQueue[_Work | None]", store: PatientStore) -> None:
    store.close()
    for _ in range(_THREADS):
        tasks.put(None)
