"""Where hosted pictures are: in a folder of one service, or in the database that several services share."""

import asyncio
import collections
import re
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import BigInteger, Double, LargeBinary, String, Text, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.storage.database import Base, Database

T = TypeVar("T")

LIFETIME = 3600.0  # seconds
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(?:png|jpeg|webp)", re.ASCII)

Expiring = dict[tuple[int, str], int]
"""Stored bytes by the minute in which they expire, and by owner."""


class HostedFiles(Protocol):
    """Files that are kept for an hour."""

    async def write(self, files: Mapping[str, bytes], owner: str, now: float) -> None:
        """Store files by their names, all or none.

        Raises OSError or DatabaseError.
        """

    async def read(self, name: str) -> bytes | None:
        """Return a file, None if it does not exist or has expired."""

    async def sweep(self) -> Expiring:
        """Delete expired files, and return the bytes of others.

        Those that this process has written do not count.
        """

    def close(self) -> None:
        """Release threads; the files stay."""


class FilesInFolder:
    """The files of one service.

    Only files whose names have the form of ours are touched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="files")
        self._written: set[str] = set()

    async def write(self, files: Mapping[str, bytes], owner: str, now: float) -> None:
        """Store files, as `HostedFiles.write`."""
        self._written.update(files)

        def write() -> None:
            try:
                for name, content in files.items():
                    (self._folder / name).write_bytes(content)
            except OSError:
                for name in files:
                    (self._folder / name).unlink(missing_ok=True)
                self._written.difference_update(files)
                raise

        await self._run(write)

    async def read(self, name: str) -> bytes | None:
        """Return a file, as `HostedFiles.read`."""
        if not _NAME.fullmatch(name):
            return None

        def content() -> bytes | None:
            try:
                with (self._folder / name).open("rb") as file:
                    found = file.read()
                    age = time.time() - (self._folder / name).stat().st_mtime
            except OSError:
                return None
            return found if age < LIFETIME else None

        return await self._run(content)

    async def sweep(self) -> Expiring:
        """Delete expired files, as `HostedFiles.sweep`."""
        return await self._run(self._sweep)

    def close(self) -> None:
        """Release threads, as `HostedFiles.close`."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _sweep(self) -> Expiring:
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        oldest = time.time() - LIFETIME
        kept: Expiring = collections.defaultdict(int)
        for path in self._folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
                if status.st_mtime < oldest:
                    path.unlink()
                    self._written.discard(path.name)
                elif path.name not in self._written:
                    kept[int((status.st_mtime + LIFETIME) // 60), ""] += status.st_size
            except OSError:
                continue
        return kept

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class HostedPicture(Base):
    """A picture with an address.

    service: the process that stored it. expires: seconds since 1970.
    """

    __tablename__ = "hosted_pictures"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    service: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[float] = mapped_column(Double, index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class FilesInDatabase:
    """The files of all services that share a database.

    Each service can answer for those of the others.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._service = f"service_{uuid.uuid4().hex}"

    async def write(self, files: Mapping[str, bytes], owner: str, now: float) -> None:
        """Store files, as `HostedFiles.write`."""
        await self._database.run(_insert, files, self._service, owner, now + LIFETIME)

    async def read(self, name: str) -> bytes | None:
        """Return a file, as `HostedFiles.read`."""
        if not _NAME.fullmatch(name):  # PostgreSQL rejects NUL
            return None
        return await self._database.run(_content, name, time.time())

    async def sweep(self) -> Expiring:
        """Delete expired files, as `HostedFiles.sweep`."""
        return await self._database.run(_sweep_rows, self._service, time.time())

    def close(self) -> None:
        """Release threads, as `HostedFiles.close`."""


def _insert(session: Session, files: Mapping[str, bytes], service: str, owner: str, expires: float) -> None:
    for name, content in files.items():
        new = HostedPicture(name=name, service=service, owner=owner, size=len(content), expires=expires)
        new.content = content
        session.merge(new)  # the answer of an earlier commit may have been lost


def _content(session: Session, name: str, now: float) -> bytes | None:
    picture = HostedPicture
    return session.scalar(select(picture.content).where(picture.name == name, picture.expires > now))


def _sweep_rows(session: Session, service: str, now: float) -> Expiring:
    session.execute(delete(HostedPicture).where(HostedPicture.expires <= now))
    minute = func.floor(HostedPicture.expires / 60)
    rows = session.execute(
        select(minute, HostedPicture.owner, func.sum(HostedPicture.size))
        .where(HostedPicture.service != service)
        .group_by(minute, HostedPicture.owner)
    )
    return {(int(number), owner): int(size) for number, owner, size in rows}
