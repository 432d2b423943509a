"""A folder that a node works in: the same one where storage is shared, else a copy that is sent as bytes."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danqing import atomic
from danqing.cluster.ray_jobs import RemoteObject
from danqing.errors import ClusterError

_MARK = ".shared-with-nodes"
_PIECE = 16 * 1024**2  # bytes in one message


@contextmanager
def marked(folder: Path) -> Iterator[str]:
    """Write a random word into a folder, by which nodes see that they share it; yields the word."""
    word = secrets.token_hex(16)
    atomic.write_text(folder / _MARK, word)
    try:
        yield word
    finally:
        (folder / _MARK).unlink(missing_ok=True)


class NodeFolder:
    """A folder of another machine, as the node of this process sees it.

    folder: its absolute path there. word: what `marked` has yielded.
    """

    def __init__(self, folder: str, word: str) -> None:
        self.original = Path(folder)
        self.is_shared = _is_marked(self.original, word)
        self.path = self.original if self.is_shared else Path(tempfile.mkdtemp(prefix="danqing-node-"))

    def localized(self, value: Any) -> Any:
        """Return plain values in which paths in the original folder lead to this one."""
        if isinstance(value, dict):
            return {key: self.localized(each) for key, each in value.items()}
        if isinstance(value, str) and Path(value).is_relative_to(self.original):
            return str(self.path / Path(value).relative_to(self.original))
        return value

    def names(self, part: str) -> list[str]:
        """Return the names of all files in a part of the folder, without locks and leftovers."""
        return names(self.path, part)

    def read(self, name: str, start: int) -> bytes:
        """Return a piece of a file, from byte `start` on."""
        with _inside(self.path, name).open("rb") as file:
            file.seek(start)
            return file.read(_PIECE)

    def append(self, name: str, start: int, piece: bytes) -> None:
        """Write a piece of a file at byte `start`; the first one makes the file."""
        _append(_inside(self.path, name), start, piece)

    def remove(self) -> None:
        """Delete the folder if it is a copy."""
        if not self.is_shared:
            shutil.rmtree(self.path, ignore_errors=True)


def names(folder: Path, part: str) -> list[str]:
    """Return the names of a file, or of all files in a folder of it, relative to `folder`, with `/`."""
    start = folder / part
    found = [start] if start.is_file() else []
    for parent, _, files in os.walk(start):
        found += [Path(parent) / name for name in files if name != ".lock" and not name.endswith(".tmp")]
    return sorted(path.relative_to(folder).as_posix() for path in found if not path.is_symlink())


def send(remote: RemoteObject, folder: Path, parts: list[str]) -> None:
    """Send files and folders to an object with the methods of `NodeFolder`; raises LostNodeError."""
    for name in (name for part in parts for name in names(folder, part)):
        with (folder / name).open("rb") as file:
            start, piece = 0, file.read(_PIECE)
            remote.call("append", name, 0, piece)
            while len(piece) == _PIECE:
                start, piece = start + _PIECE, file.read(_PIECE)
                remote.call("append", name, start, piece)


def fetch(remote: RemoteObject, folder: Path, part: str) -> None:
    """Replace a folder by that of an object with the methods of `NodeFolder`, as a whole.

    Raises LostNodeError, after which the folder is as it was.
    """
    target = folder / part
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)  # of a call that was killed
    fresh.mkdir()
    try:
        for name in remote.call("names", part):
            copy = _inside(fresh, Path(name).relative_to(part).as_posix())
            start, piece = 0, remote.call("read", name, 0)
            _append(copy, 0, piece)
            while len(piece) == _PIECE:
                start, piece = start + _PIECE, remote.call("read", name, start + _PIECE)
                _append(copy, start, piece)
        # A kill between the two leaves no folder, and the work starts again: its result is the same.
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    atomic.sync_folder(target.parent)


def _append(path: Path, start: int, piece: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.write(piece)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ClusterError(f"{name} leads out of the folder that is sent: rename the file.")
    return path


def _is_marked(folder: Path, word: str) -> bool:
    try:
        return secrets.compare_digest((folder / _MARK).read_text(encoding="utf-8"), word)
    except OSError:
        return False
