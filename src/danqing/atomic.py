"""Files that appear whole or not at all: written under a temporary name, synced, then renamed."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_LEFTOVERS = ".*.tmp"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends without an exception.

    The temporary file lies in the same folder, so that the rename cannot cross file systems; it is removed
    when the block raises. File and folder are synced, so that the new content survives a power cut.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` to `path` atomically, as indented JSON that keeps Chinese readable."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def touch(path: Path) -> None:
    """Note on a file or folder that it is used now; does nothing where it cannot be changed."""
    with contextlib.suppress(OSError):
        os.utime(path)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders, and needs no sync of them
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def present(folder: Path) -> set[str]:
    """The names of what lies in `folder`, none where it is missing; but not what killed writers left."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return {entry.name for entry in entries if not entry.match(_LEFTOVERS)}


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left behind in `folder`."""
    for leftover in folder.glob(_LEFTOVERS):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
