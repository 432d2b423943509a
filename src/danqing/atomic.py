"""Files that appear whole or not at all: written under a temporary name, synced, then renamed."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_LEFTOVERS = ".*.tmp"
_LONG = 200
"""Bytes of a name from which on the temporary one is shorter: file systems allow 255."""


@contextlib.contextmanager
def replacing(path: str | Path, *, private: bool = False, is_new: bool = False) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends.

    private: whether only its owner may read it (mode 0600), for keys.
    is_new: whether `path` must not exist yet. Of several processes that create a file, one succeeds, and the
        others get FileExistsError.

    The file is binary. Where the block raises an exception, `path` stays as it is. The temporary file lies
    in the same folder, so that the rename cannot cross file systems. File and folder are synced, so that the
    new content survives a power cut.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not private:  # a temporary file is private from its creation on
            os.chmod(temporary, 0o666 & ~umask())
        if is_new:
            _move_to_new(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_bytes(path: str | Path, content: bytes, *, private: bool = False, is_new: bool = False) -> None:
    """Write `content` to `path` atomically.

    private, is_new: as of `replacing`.
    """
    with replacing(path, private=private, is_new=is_new) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` to `path` atomically, as indented JSON.

    Chinese stays readable.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def touch(path: Path) -> None:
    """Set the time of a file or folder to now.

    It shows that the file is used. Does nothing where it cannot be changed.
    """
    with contextlib.suppress(OSError):
        os.utime(path)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that renames within it survive a power cut.

    Does nothing where the system cannot open folders.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders, and needs no sync of them
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def present(folder: Path) -> set[str]:
    """Return the names in a folder, without leftovers of killed writers.

    There are none where the folder is missing.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    return {entry.name for entry in entries if not entry.match(_LEFTOVERS)}


def remove_leftovers_of(path: Path) -> None:
    """Delete what killed writers of one file left beside it."""
    for leftover in path.parent.glob(f"{glob.escape(_prefix(path))}*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete the files and folders that killed writers left in a folder."""
    for leftover in folder.glob(_LEFTOVERS):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                leftover.unlink()


def _prefix(path: Path) -> str:
    """Return how the temporary names of a file begin."""
    name, raw = path.name, os.fsencode(path.name)
    if len(raw) > _LONG:
        name = name[:40] + hashlib.blake2b(raw, digest_size=8).hexdigest()
    return f".{name}."


def _move_to_new(temporary: str, path: Path) -> None:
    """Rename a file; raise FileExistsError instead of replacing another one."""
    try:
        os.link(temporary, path)  # unlike a rename, a link never replaces a file
    except FileExistsError:
        raise
    except OSError:  # the file system has no links, such as that of a USB stick: reserve the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def umask() -> int:
    """Return the permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
