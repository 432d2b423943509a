"""Pixels as files: in the size and format asked for, and for an hour under an address of their own. Whatever
takes long with pixels, such as to read those that were sent, is done here for one owner after the other.
"""

import asyncio
import base64
import collections
import contextlib
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from danqing import images, threads
from danqing.service.errors import FINAL, ApiError
from danqing.service.orders import Pixels
from danqing.service.shares import Line, Shares

Format = Literal["png", "jpeg", "webp"]
_T = TypeVar("_T")

MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PICTURE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=3600, immutable",
}
"""Of every answer that is a picture: no browser takes it for a page, whatever its bytes are."""

_INLINE = 4_096  # pixels: a PNG of so many takes little longer than handing them to a thread and back
_AT_ONCE = 196_608  # bytes, a multiple of three: writing so many in base64 keeps nobody waiting
_HOLE = b'"b64_json": ""'
_SECONDS_OF_LIFE = 3600.0
_SECONDS_BETWEEN_SWEEPS = 60.0
_MOST_BYTES = 4 * 1024**3
_MOST_WORK = 100_000_000  # pixels per thread, each of which makes a PNG of some four million in a second
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(?:png|jpeg|webp)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are to be handed out. size: (width, height). opaque: transparency is laid on white.
    compression: quality of jpeg and webp, 0 to 100.
    """

    size: tuple[int, int]
    format: Format = "png"
    opaque: bool = False
    compression: int = 100

    @property
    def work(self) -> int:
        """What making one file costs, as pixels of a PNG."""
        return self.size[0] * self.size[1] * (4 if self.format == "webp" else 1)

    def render(self, pixels: Pixels) -> bytes:
        """One picture uint8 `[h, w, c]` as a file."""
        height, width, channels = pixels.shape
        laid = self.opaque and channels in (2, 4)
        if laid or (width, height) != self.size:
            alpha: Literal["flatten", "keep"] = "flatten" if laid else "keep"
            pixels = images.conform(pixels, size=self.size, alpha=alpha, fit="stretch")
        return images.encode(pixels, self.format, quality=max(1, self.compression))


class Room:
    """What somebody may have made into files; `leave` when it is, or will not be."""

    def __init__(self, shares: Shares, owner: str, work: int) -> None:
        self._shares, self._owner, self._work = shares, owner, work
        if not shares.taken:  # any one request is let in
            shares.add(owner, work)
        elif not shares.take(owner, work):
            message = "Too many pixels wait to be made into files: ask again later, or for smaller pictures."
            raise ApiError(429, message, code="overloaded", headers={"retry-after": "5"})

    def leave(self) -> None:
        """Give the room back; nothing happens where that was done."""
        work, self._work = self._work, 0
        self._shares.give_back(self._owner, work)


class Pictures:
    """Makes files of pixels, small ones at once and large ones in threads, for one owner after the other, and
    keeps those that an address leads to until they are an hour old.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free = max(2, threads.cores())
        self._threads = ThreadPoolExecutor(self._free, thread_name_prefix="pictures")
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="files")
        self._shares = Shares(_MOST_WORK * self._free)
        self.line = Line(_MOST_WORK * self._free)
        """For what nobody waits for: it has room of its own, and waits for it."""
        self._waiting: dict[str, collections.deque[asyncio.Future[None]]] = {}
        self._stored = Shares(_MOST_BYTES)
        self._ages: dict[tuple[int, str], int] = {}
        """Stored bytes by the minute in which they become too old, and by owner."""
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the folder, and forget what is too old in it from now on."""
        await self._run(lambda: self._folder.mkdir(0o700, parents=True, exist_ok=True))
        for minute, size in (await self._run(self._sweep)).items():
            self._stored.add("", size)
            self._ages[minute, ""] = size
        self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        """End the threads; the files stay until a next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in (self._threads, self._disk):
            pool.shutdown(wait=False, cancel_futures=True)

    def room(self, owner: str, work: int) -> Room:
        """Let somebody have so much (`Look.work`) made into files; raises ApiError 429 where much waits."""
        return Room(self._shares, owner, work)

    async def render(
        self,
        pixels: Pixels,
        look: Look,
        compose: Callable[[Pixels], Sequence[Pixels]] | None = None,
        owner: str = "",
    ) -> list[bytes]:
        """Files of the pictures uint8 `[n, h, w, c]`, made when it is the owner's turn; whoever is cancelled
        leaves the rest undone. compose: what is made of them before.
        """
        left = threading.Event()

        def make() -> list[bytes]:
            files = []
            for one in pixels if compose is None else compose(pixels):
                if left.is_set():
                    break
                files.append(look.render(one))
            return files

        if compose is None and len(pixels) * max(pixels[0].size // pixels.shape[3], look.work) <= _INLINE:
            return make()
        try:
            return await self.in_turn(owner, make)
        except asyncio.CancelledError:
            left.set()
            raise

    async def in_turn(self, owner: str, work: Callable[[], _T]) -> _T:
        """What some work with pixels gives, done in a thread when it is the owner's turn: no more is done at
        once than the machine has cores. Whoever is cancelled before leaves the work undone.
        """
        await self._turn(owner)
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done.add_done_callback(lambda _: self._next_turn())
        return await asyncio.shield(done)

    async def pack(self, files: Sequence[bytes]) -> list[bytes]:
        """Files in base64."""
        if sum(map(len, files)) <= _AT_ONCE:
            return [base64.b64encode(file) for file in files]
        return await self._run(lambda: [_packed(file) for file in files])

    async def keep(self, files: Sequence[bytes], format: Format, owner: str = "") -> list[str]:
        """Store files for an hour; returns their names, which nobody can guess. Raises ApiError 507."""
        names = [f"{secrets.token_urlsafe(24)}.{format}" for _ in files]
        total = sum(map(len, files))
        if not self._stored.take(owner, total):
            raise _no_room()
        age = int((time.time() + _SECONDS_OF_LIFE) // 60), owner
        self._ages[age] = self._ages.get(age, 0) + total

        def write() -> None:
            written = []
            try:
                for name, content in zip(names, files, strict=True):
                    written.append(self._folder / name)
                    written[-1].write_bytes(content)
            except OSError as error:
                for path in written:
                    path.unlink(missing_ok=True)
                raise _no_room() from error

        try:
            await self._run(write)
        except ApiError:
            self._ages[age] -= total
            self._stored.give_back(owner, total)
            raise
        return names

    async def read(self, name: str) -> bytes | None:
        """A stored file; None where there is none of this name, or it is over an hour old."""
        if not _NAME.fullmatch(name):
            return None

        def content() -> bytes | None:
            try:
                with (self._folder / name).open("rb") as file:
                    found = file.read()
                    age = time.time() - (self._folder / name).stat().st_mtime
            except OSError:
                return None
            return found if age < _SECONDS_OF_LIFE else None

        return await self._run(content)

    async def _turn(self, owner: str) -> None:
        """Wait for a thread: owners take turns, each with what it asked for first."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next_turn()
            raise

    def _next_turn(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            turns = self._waiting.pop(owner)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SWEEPS)
            with contextlib.suppress(OSError):  # a folder that is away now
                await self._run(self._sweep)
            now = time.time() // 60 - 1
            for minute, owner in [age for age in self._ages if age[0] < now]:
                self._stored.give_back(owner, self._ages.pop((minute, owner)))

    def _sweep(self) -> dict[int, int]:
        """Delete what is too old, and count the rest by the minute in which it will be; only files that have
        the form of our names.
        """
        oldest = time.time() - _SECONDS_OF_LIFE
        kept: dict[int, int] = collections.defaultdict(int)
        for path in self._folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
                if status.st_mtime < oldest:
                    path.unlink()
                else:
                    kept[int((status.st_mtime + _SECONDS_OF_LIFE) // 60)] += status.st_size
            except OSError:
                continue
        return kept


def filled(text: bytes, packed: Sequence[bytes]) -> bytes:
    """JSON with files in the places of its empty `b64_json`: they need not go through a JSON encoder, which
    would keep all other requests waiting.
    """
    parts = text.split(_HOLE)
    around = zip(parts, packed, strict=False)
    whole = [(part, b'"b64_json": "', file, b'"') for part, file in around]
    return b"".join([*itertools.chain.from_iterable(whole), parts[-1]])


def _packed(file: bytes) -> bytes:
    """A file in base64, written in pieces, between which other threads have their turn."""
    view = memoryview(file)
    return b"".join(base64.b64encode(view[at : at + _AT_ONCE]) for at in range(0, len(file), _AT_ONCE))


def _no_room() -> ApiError:
    message = "There is no room for pictures under addresses now: ask for response_format b64_json."
    return ApiError(507, message, param="response_format", code="no_room", headers=FINAL)
