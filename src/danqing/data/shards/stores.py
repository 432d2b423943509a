"""Where shards are: a folder, or a store at a URL that answers range reads, such as http:// or s3://."""

import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from danqing import atomic
from danqing.errors import DataError

_MISSING = (401, 403, 404, 410)
_OUT_OF_RANGE = 416
_WHOLE = 200
"""The status of an answer that is the whole file."""
_CHUNK = 2**16
ATTEMPTS = 5
"""How often a file is tried before it is seen whether the store answers at all."""
PATIENCE_SECONDS = 600.0
"""How long a store that does not answer is waited for."""
_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)
_T = TypeVar("_T")


class MissingFileError(Exception):
    """A store answers that it does not have a file."""


class Store(Protocol):
    """Files by name.

    place: where, for people, without secrets.
    """

    place: str

    def local(self, name: str) -> Path | None:
        """Return the path of a file, if it is on this machine."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a part of a file, less if it ends earlier.

        Raises MissingFileError, and other errors if the store does not answer.
        """
        ...

    def write(self, name: str, path: Path) -> None:
        """Copy a file into the store.

        It is there whole or not at all, as far as the store can do that.
        """
        ...


def is_url(place: str | Path) -> bool:
    """Return whether a place is an address, and not a path."""
    return isinstance(place, str) and "://" in place


def open_store(place: str | Path) -> Store:
    """Open a folder or a URL; raise DataError."""
    return UrlStore(place) if isinstance(place, str) and is_url(place) else Folder(Path(place).expanduser())


class Folder:
    """A store that is a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def local(self, name: str) -> Path | None:
        return self.path / name

    def read(self, name: str, start: int, end: int) -> bytes:
        try:
            with open(self.path / name, "rb") as file:
                file.seek(start)
                return file.read(end - start)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise MissingFileError(str(error.strerror)) from error

    def write(self, name: str, path: Path) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with open(path, "rb") as source, atomic.replacing(self.path / name) as target:
            shutil.copyfileobj(source, target, 2**20)


class UrlStore:
    """A store at a URL, through fsspec."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.password or parts.username:
            raise DataError(
                "The address of the shards contains a user name or password, which would be written into run "
                "folders: leave it out, and give it to fsspec by its environment variables or its "
                "configuration file."
            )
        self.place = urllib.parse.urlunsplit(parts._replace(query="", fragment=""))
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise DataError("Shards at a URL need fsspec: pip install 'danqing[stores]'.") from error
        options: dict[str, Any] = {}
        self._is_http = parts.scheme in ("http", "https")
        if self._is_http:
            options["client_kwargs"] = {"timeout": _http_timeout()}
        try:
            self._files, self._root = url_to_fs(url.rstrip("/"), **options)
        except ImportError as error:
            raise DataError(f"{self.place} needs another package ({error}): install it.") from error
        except ValueError as error:
            raise DataError(f"{self.place} is not an address that fsspec knows ({error}).") from error

    def local(self, name: str) -> Path | None:
        return None

    def read(self, name: str, start: int, end: int) -> bytes:
        try:
            content = self._part(f"{self._root}/{name}", start, end)
        except DataError:
            raise
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise MissingFileError(type(error).__name__) from error
        except Exception as error:
            status = getattr(error, "status", None)
            if status in _MISSING:
                raise MissingFileError(f"status {status}") from error
            if status == _OUT_OF_RANGE:
                return b""
            raise
        if len(content) > end - start:
            raise self._ignores_ranges()
        return content

    def _part(self, path: str, start: int, end: int) -> bytes:
        if not self._is_http:
            return bytes(self._files.cat_file(path, start=start, end=end))
        if start == end:
            return b""
        from fsspec.asyn import sync

        return bytes(sync(self._files.loop, self._requested, path, start, end))

    async def _requested(self, url: str, start: int, end: int) -> bytearray:
        """Request a part by HTTP, and read no more than that, whatever the server sends."""
        options = dict(self._files.kwargs)
        options["headers"] = {**options.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
        session, content = await self._files.set_session(), bytearray()
        async with session.get(self._files.encode_url(url), **options) as response:
            response.raise_for_status()
            if response.status == _WHOLE and start:
                raise self._ignores_ranges()
            async for chunk in response.content.iter_chunked(_CHUNK):
                content += chunk
                if len(content) > end - start:
                    raise self._ignores_ranges()
        return content

    def _ignores_ranges(self) -> DataError:
        return DataError(f"{self.place} does not answer range reads: use a server that does.")

    def write(self, name: str, path: Path) -> None:
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.put_file(str(path), f"{self._root}/{name}")
        except NotImplementedError as error:
            raise DataError(
                f"{self.place} cannot be written to: choose a folder or another store."
            ) from error
        except Exception as error:  # each store has errors of its own
            raise DataError(
                f"{name} cannot be written to {self.place} ({_short(error)}): repair that, and run the same "
                "command again to continue."
            ) from error


def _http_timeout() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


class PatientStore:
    """Reads from a store, again while it does not answer.

    A file that the store does not have, or does not give although it gives others, is an error of that file.
    A store that gives nothing is waited for.
    known: the name of a file that it has.
    """

    def __init__(self, store: Store, known: str) -> None:
        self.store, self._known = store, known
        self._is_closed = threading.Event()

    def close(self) -> None:
        """End all waiting."""
        self._is_closed.set()

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read exactly a part of a file.

        Raises DataError if it is missing, too short or cannot be read, and StoreError if the store has not
        answered for ten minutes.
        """
        content = self._patiently(lambda: self.store.read(name, start, end), name)
        if len(content) != end - start:
            raise DataError("It is truncated.")
        return content

    def _patiently(self, work: Callable[[], _T], name: str) -> _T:
        deadline, attempt = time.monotonic() + PATIENCE_SECONDS, 0
        while True:
            try:
                return work()
            except MissingFileError as error:
                raise DataError(f"It is missing ({error}).") from error
            except DataError:
                raise
            except Exception as error:  # each store has errors of its own
                attempt += 1
                if attempt % ATTEMPTS == 0 and name != self._known and self._answers():
                    raise DataError(f"It cannot be read ({_short(error)}).") from error
                if time.monotonic() > deadline or self._is_closed.is_set():
                    raise StoreError(
                        f"{self.store.place} does not answer ({_short(error)}): run the same command again "
                        "when it does, and it resumes."
                    ) from error
                self._is_closed.wait(_PAUSES[min(attempt, len(_PAUSES)) - 1])

    def _answers(self) -> bool:
        try:
            self.store.read(self._known, 0, 1)
        except Exception:
            return False
        return True


class StoreError(DataError):
    """A store that does not answer.

    Whether its shards are good is not known.
    """


def _short(error: Exception) -> str:
    """Return what an error says, without addresses, which may hold signatures."""
    if isinstance(error, OSError) and error.strerror and "://" not in error.strerror:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    status = getattr(error, "status", None)
    return f"status {status}" if status else type(error).__name__
