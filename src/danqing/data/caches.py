"""The folder of caches: lists and deletes packed data, codes, features and other caches.

Everything in it can be computed or downloaded again. A cache is deleted under the lock that its writers hold,
so that none disappears while it is being built.
"""

import contextlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import filelock

from danqing.data.cache import default_folder
from danqing.data.manifest import read_manifest
from danqing.errors import DataError

Kind = Literal["data", "codes", "features", "latents", "trajectories", "text", "downloads", "shards"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FILES: tuple[Kind, ...] = ("codes", "features", "latents", "trajectories")
_FOLDERS: tuple[Kind, ...] = ("text", "downloads", "shards")
_KEY = re.compile(r"[0-9a-f]{32}")
_LONGEST_HEADER = 2**20


@dataclass(frozen=True)
class Cache:
    """One cache.

    key: unique among the caches of its kind. name: what it was made from, if that is known. bytes: on disk.
    last_used: seconds since 1970. is_complete: False if a build was interrupted or is still running.
    """

    kind: Kind
    key: str
    name: str
    paths: tuple[Path, ...]
    lock: Path | None
    bytes: int
    last_used: float
    is_complete: bool


def metadata(data: str, **others: str) -> dict[str, dict[str, str]]:
    """Return the metadata of a cached safetensors file.

    It begins with the name of the data set.
    """
    told = {"data": data, **others}
    return {"__metadata__": {key: text.encode("utf-8", "replace").decode() for key, text in told.items()}}


def find(folder: Path | None = None) -> list[Cache]:
    """List all caches in a folder (by default `default_folder()`), the largest first."""
    folder = folder or default_folder()
    found = [*_data(folder)]
    for kind in _FOLDERS:
        found += _folders(folder, kind)
    for kind in _FILES:
        found += _files(folder, kind)
    return sorted(found, key=lambda cache: -cache.bytes)


def delete(cache: Cache) -> bool:
    """Delete a cache.

    Returns False, and deletes nothing, if it is being built.

    A process that is reading it can continue, if the system can delete open files. Raises DataError.
    """
    try:
        with contextlib.ExitStack() as held:
            if cache.lock is not None:
                try:
                    # The lock file stays: another process may already wait for it.
                    held.enter_context(filelock.FileLock(cache.lock, timeout=0))
                except filelock.Timeout:
                    return False
            for path in cache.paths:
                if path.is_dir():
                    (path / "manifest.json").unlink(
                        missing_ok=True
                    )  # so that a half-deleted cache does not count as complete
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or cache.paths[0]} cannot be deleted ({error.strerror or error}): close what "
            "uses it, or delete it by hand."
        ) from error
    return True


def _data(folder: Path) -> Iterator[Cache]:
    """List packed data sets: one folder each, with its lock next to it."""
    for path in _entries(folder, lambda entry: bool(_KEY.fullmatch(entry.name)) and entry.is_dir()):
        try:
            name, is_complete = read_manifest(path).name, True
        except (OSError, ValueError):
            name, is_complete = "", False
        yield _cache("data", path.name, name, (path,), folder / f"{path.name}.lock", is_complete)


def _files(folder: Path, kind: Kind) -> Iterator[Cache]:
    """List cached tensors: one file each, its lock, and leftovers of killed processes."""
    parts: dict[str, list[Path]] = {}
    for path in _entries(folder / kind, lambda entry: entry.suffix != ".lock"):
        if found := _KEY.match(path.name.lstrip(".")):
            parts.setdefault(found[0], []).append(path)
    for key, paths in parts.items():
        whole = folder / kind / f"{key}.safetensors"
        is_complete = whole in paths
        name = _described(whole) if is_complete else ""
        yield _cache(kind, key, name, tuple(paths), folder / kind / f"{key}.lock", is_complete)


def _folders(folder: Path, kind: Kind) -> Iterator[Cache]:
    """List groups of files, one folder each: texts of one encoder, files or shards of one data set."""
    for path in _entries(folder / kind, lambda entry: entry.is_dir()):
        is_named = kind == "downloads"
        lock = folder / kind / f".{path.name}.lock" if is_named else None
        yield _cache(kind, path.name, path.name if is_named else "", (path,), lock, True)


def _cache(
    kind: Kind, key: str, name: str, paths: tuple[Path, ...], lock: Path | None, is_complete: bool
) -> Cache:
    statuses = []
    for path in paths:
        for each in (path, *(path.rglob("*") if path.is_dir() else ())):
            with contextlib.suppress(OSError):  # it may disappear meanwhile
                statuses.append((each.is_file(), each.stat()))
    size = sum(status.st_size for is_file, status in statuses if is_file)
    if lock is not None:  # each use touches it
        with contextlib.suppress(OSError):
            statuses.append((False, lock.stat()))
    last_used = max((status.st_mtime for _, status in statuses), default=0.0)
    return Cache(kind, key, name, paths, lock, size, last_used, is_complete)


def _described(path: Path) -> str:
    """Return what a safetensors file was made from, according to its header; empty if it does not say."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        return ", ".join(str(text) for text in header["__metadata__"].values() if text)
    except (OSError, struct.error, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return ""


def _entries(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if wanted(entry))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror or error}): set DANQING_CACHE to another folder."
        ) from error
