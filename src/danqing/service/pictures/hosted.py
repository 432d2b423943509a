"""Pictures that clients can download from an address for an hour."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from danqing.service.errors import FINAL, ApiError
from danqing.service.fairness.fair_share import FairShare
from danqing.service.pictures.encoding import Format
from danqing.service.pictures.hosted_files import (
    LIFETIME,
    Expiring,
    FilesInDatabase,
    FilesInFolder,
    HostedFiles,
)
from danqing.service.storage.database import Database, DatabaseAwayError, DatabaseError

_SECONDS_BETWEEN_SWEEPS = 60.0
MOST_BYTES = 4 * 1024**3


class HostedPictures:
    """Stores files for an hour, under names that cannot be guessed.

    folder: of the files.
    database: instead of the folder, where several services share it.
    share: of the bytes that are stored, including those of other services a minute ago.
    """

    def __init__(self, folder: Path, database: Database | None = None) -> None:
        self.share = FairShare(MOST_BYTES)
        self._files: HostedFiles = FilesInFolder(folder)
        if database is not None and not database.is_sqlite:
            self._files = FilesInDatabase(database)
        self._own: Expiring = {}
        self._others: Expiring = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the folder, and delete expired files from now on."""
        await self._sweep()
        self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        """End the threads; the files stay until they expire."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._files.close()

    async def store(self, files: Sequence[bytes], format: Format, owner: str = "") -> list[str]:
        """Store files for an hour and return their names.

        Raises ApiError 507 if there is no room, DatabaseAwayError if the database does not answer.
        """
        names = [f"{secrets.token_urlsafe(24)}.{format}" for _ in files]
        total, now = sum(map(len, files)), time.time()
        if not self.share.take(owner, total):
            raise _no_room()
        expires = int((now + LIFETIME) // 60), owner
        self._own[expires] = self._own.get(expires, 0) + total
        try:
            await self._files.write(dict(zip(names, files, strict=True)), owner, now)
        except (OSError, DatabaseError) as error:
            self._own[expires] -= total
            self.share.give_back(owner, total)
            if isinstance(error, DatabaseAwayError):
                raise
            raise _no_room() from error
        return names

    async def read(self, name: str) -> bytes | None:
        """Return a stored file.

        None if no file has this name, or it has expired.
        """
        return await self._files.read(name)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SWEEPS)
            with contextlib.suppress(OSError, DatabaseError):  # it may be temporarily unavailable
                await self._sweep()

    async def _sweep(self) -> None:
        """Delete expired files, and count those that are left."""
        others = await self._files.sweep()
        now = time.time() // 60 - 1
        for expires in [expires for expires in self._own if expires[0] < now]:
            self.share.give_back(expires[1], self._own.pop(expires))
        for (_, owner), size in self._others.items():
            self.share.give_back(owner, size)
        for (_, owner), size in others.items():
            self.share.add(owner, size)
        self._others = others


def _no_room() -> ApiError:
    message = "The service cannot host more pictures now: request response_format b64_json."
    return ApiError(507, message, param="response_format", code="no_room", headers=FINAL)
