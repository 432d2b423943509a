"""Pictures that clients can download from an address for an hour."""

import asyncio
import collections
import contextlib
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from danqing.service.errors import FINAL, ApiError
from danqing.service.fairness.fair_share import FairShare
from danqing.service.pictures.encoding import Format

T = TypeVar("T")

_LIFETIME = 3600.0  # seconds
_SECONDS_BETWEEN_SWEEPS = 60.0
MOST_BYTES = 4 * 1024**3
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(?:png|jpeg|webp)", re.ASCII)


class HostedPictures:
    """Stores files for an hour, under names that cannot be guessed.

    share: of the bytes that are stored.
    """

    def __init__(self, folder: Path) -> None:
        self.share = FairShare(MOST_BYTES)
        self._folder = folder
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="files")
        self._expiring: dict[tuple[int, str], int] = {}
        """Stored bytes by the minute in which they expire, and by owner."""
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the folder, and delete expired files in it from now on."""
        await self._run(lambda: self._folder.mkdir(0o700, parents=True, exist_ok=True))
        for minute, size in (await self._run(self._sweep)).items():
            self.share.add("", size)
            self._expiring[minute, ""] = size
        self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        """End the threads; the files stay until the next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def store(self, files: Sequence[bytes], format: Format, owner: str = "") -> list[str]:
        """Store files for an hour and return their names.

        Raises ApiError 507 if there is no room.
        """
        names = [f"{secrets.token_urlsafe(24)}.{format}" for _ in files]
        total = sum(map(len, files))
        if not self.share.take(owner, total):
            raise _no_room()
        expires = int((time.time() + _LIFETIME) // 60), owner
        self._expiring[expires] = self._expiring.get(expires, 0) + total

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
            self._expiring[expires] -= total
            self.share.give_back(owner, total)
            raise
        return names

    async def read(self, name: str) -> bytes | None:
        """Return a stored file.

        None if no file has this name, or it has expired.
        """
        if not _NAME.fullmatch(name):
            return None

        def content() -> bytes | None:
            try:
                with (self._folder / name).open("rb") as file:
                    found = file.read()
                    age = time.time() - (self._folder / name).stat().st_mtime
            except OSError:
                return None
            return found if age < _LIFETIME else None

        return await self._run(content)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SWEEPS)
            with contextlib.suppress(OSError):  # the folder may be temporarily unavailable
                await self._run(self._sweep)
            now = time.time() // 60 - 1
            for minute, owner in [expires for expires in self._expiring if expires[0] < now]:
                self.share.give_back(owner, self._expiring.pop((minute, owner)))

    def _sweep(self) -> dict[int, int]:
        """Delete expired files; return the bytes of the others by the minute in which they expire.

        Only files whose names have the form of ours are touched.
        """
        oldest = time.time() - _LIFETIME
        kept: dict[int, int] = collections.defaultdict(int)
        for path in self._folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
                if status.st_mtime < oldest:
                    path.unlink()
                else:
                    kept[int((status.st_mtime + _LIFETIME) // 60)] += status.st_size
            except OSError:
                continue
        return kept


def _no_room() -> ApiError:
    message = "The service cannot host more pictures now: request response_format b64_json."
    return ApiError(507, message, param="response_format", code="no_room", headers=FINAL)
