"""Tar archives, one or many (WebDataset shards), read in place and in their own order."""

import contextlib
import functools
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from danqing.data.files import HEAD, Listing, Loader, too_large
from danqing.data.records import digest, file_key
from danqing.errors import DataError
from danqing.image_files import MAX_BYTES

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SMALL = 2**20
"""Largest side file in bytes: a label, a caption."""
_SIDE = (".txt", ".text", ".caption", ".cls", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class _Member(NamedTuple):
    """The position of one file: its shard, its number among the shard's members, first byte and length."""

    shard: int
    number: int
    offset: int
    size: int


class Tars:
    """The members of tar archives.

    A name is that of its shard, `/`, and the path in it.

    A plain tar is read at any position. A compressed one can only be read from front to back: its side
    files are kept when it is first read, and its images are read in their order.
    """

    def __init__(self, path: Path, shards: Sequence[Path]) -> None:
        self.path, self.shards = path, list(shards)
        self.notes: list[str] = []
        self.ignored = Counter[str]()
        self._kept: dict[str, bytes] = {}
        self._titles = titles(self.shards)

    def key(self) -> str:
        return digest("tars", *map(file_key, self.shards))

    def names(self) -> Sequence[str]:
        return list(self._members)

    def inner(self, name: str) -> str:
        return name.split("/", 1)[1]

    def read(self, name: str) -> bytes:
        if name in self._kept:
            return self._kept[name]
        member = self._members[name]
        if _is_compressed(self.shards[member.shard]):
            raise DataError(f"{name} has over {SMALL / 2**20:.0f} MiB and is not read as a label or caption.")
        return self._content(member)

    def head(self, name: str) -> bytes:
        if name in self._kept:
            return self._kept[name][:HEAD]
        member = self._members[name]
        if _is_compressed(self.shards[member.shard]):
            return b""
        return self._content(member._replace(size=min(member.size, HEAD)))

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        for shard, group in itertools.groupby(names, key=lambda name: self._members[name].shard):
            if _is_compressed(self.shards[shard]):
                yield from self._streamed(shard, list(group))
            else:
                yield from (functools.partial(self._content, self._members[name]) for name in group)

    @functools.cached_property
    def _members(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        for shard, path in enumerate(self.shards):
            found, kept = dict[bytes, _Member](), dict[bytes, bytes]()
            with self._reading(path) as archive:
                for number, entry in enumerate(archive):
                    if entry.isdir():
                        continue
                    if not entry.isfile() or entry.issparse():
                        self.ignored["links and special files in archives"] += 1
                        continue
                    raw = entry.name.encode("utf-8", "surrogateescape")
                    if raw in found:
                        self.ignored["files that a later one of the same name replaces"] += 1
                    found[raw] = _Member(shard, number, entry.offset_data, entry.size)
                    if _is_compressed(path) and entry.size <= SMALL and _is_side_file(entry.name):
                        file = archive.extractfile(entry)
                        kept[raw] = file.read() if file else b""
            if not _is_compressed(path) and not _is_ended(path):
                self.notes.append(f"{path.name} has no end mark: it may be truncated.")
            listing = Listing(found)
            self.notes += listing.notes
            self.ignored += listing.ignored
            title = self._titles[shard]
            in_order = sorted(listing.raw, key=lambda name: found[listing.raw[name]].number)
            members |= {f"{title}/{name}": found[listing.raw[name]] for name in in_order}
            self._kept |= {f"{title}/{name}": kept[raw] for name, raw in listing.raw.items() if raw in kept}
        return members

    def _content(self, member: _Member) -> bytes:
        if member.size > MAX_BYTES:
            raise too_large(member.size)
        path = self.shards[member.shard]
        try:
            with open(path, "rb") as file:
                file.seek(member.offset)
                content = file.read(member.size)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
        if len(content) != member.size:
            raise DataError("The archive is truncated here.")
        return content

    def _streamed(self, shard: int, names: Sequence[str]) -> Iterator[Loader]:
        wanted = Counter(self._members[name].number for name in names)  # a volume is requested slice by slice
        with self._reading(self.shards[shard]) as archive:
            for number, entry in enumerate(archive):
                if number in wanted and entry.size > MAX_BYTES:
                    yield from itertools.repeat(functools.partial(_refuse, entry.size), wanted[number])
                elif number in wanted:
                    file = archive.extractfile(entry)
                    content = file.read() if file else b""
                    yield from itertools.repeat(functools.partial(bytes, content), wanted[number])

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[tarfile.TarFile]:
        """Open an archive, and explain its errors."""
        try:
            with tarfile.open(path, "r|*" if _is_compressed(path) else "r:") as archive:
                yield archive
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): download it again.") from error
        except DataError:
            raise
        except Exception as error:  # zlib and lzma have errors of their own
            raise DataError(f"{path} is damaged ({type(error).__name__}): download it again.") from error


def titles(shards: Sequence[Path]) -> list[str]:
    """Return a name for each shard.

    Equal names in two folders include the names of as many folders as tell them apart.
    """
    found = [shard.name for shard in shards]
    for depth in range(2, max((len(shard.parts) for shard in shards), default=0) + 1):
        counts = Counter(found)
        if len(counts) == len(found):
            break
        found = [
            name if counts[name] == 1 else "_".join(shard.parts[-depth:])
            for name, shard in zip(found, shards, strict=True)
        ]
    return found


@functools.lru_cache(maxsize=4096)
def _is_compressed(path: Path) -> bool:
    """Return whether a tar is compressed, and so can only be read from front to back."""
    try:
        with open(path, "rb") as file:
            return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def _is_side_file(name: str) -> bool:
    return name.lower().endswith(_SIDE)


def _refuse(size: int) -> bytes:
    raise too_large(size)


def _is_ended(shard: Path) -> bool:
    """Return whether a tar ends in zeros; tarfile accepts one that is truncated between two members."""
    try:
        with open(shard, "rb") as file:
            file.seek(-512, os.SEEK_END)
            return not any(file.read())
    except OSError as error:
        raise DataError(f"{shard} cannot be read ({error.strerror or error}).") from error
