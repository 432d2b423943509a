"""Several zips as one, and the tables that lie beside archives."""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from danqing.data.files import HEAD, Files, Loader
from danqing.data.records import digest, file_key
from danqing.data.tables import TABLES
from danqing.data.tar_shards import titles
from danqing.data.zip_file import Zip
from danqing.errors import DataError


class Zips:
    """The members of several zips.

    A name is that of its zip, `/`, and the path in it.
    """

    def __init__(self, path: Path, zips: Sequence[Path]) -> None:
        self.path = path
        self._zips = dict(zip(titles(zips), map(Zip, zips), strict=True))
        self.notes = [note for each in self._zips.values() for note in each.notes]
        self.ignored = sum((each.ignored for each in self._zips.values()), Counter[str]())

    def key(self) -> str:
        return digest("zips", *(each.key() for each in self._zips.values()))

    def names(self) -> Sequence[str]:
        return [f"{title}/{name}" for title, each in self._zips.items() for name in each.names()]

    def inner(self, name: str) -> str:
        return name.split("/", 1)[1]

    def read(self, name: str) -> bytes:
        title, inner = name.split("/", 1)
        return self._zips[title].read(inner)

    def head(self, name: str) -> bytes:
        title, inner = name.split("/", 1)
        return self._zips[title].head(inner)

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        return (functools.partial(self.read, name) for name in names)


class WithTables:
    """The members of archives, and the tables of their folder.

    A table is named as if it were at the top of the archives.
    """

    def __init__(self, archives: Files, folder: Path, tables: Sequence[str]) -> None:
        self.path, self.notes, self.ignored = folder, archives.notes, archives.ignored
        self._archives, self._tables = archives, tables

    def key(self) -> str:
        places = [file_key(self.path / name) for name in self._tables]
        return digest("with tables", self._archives.key(), *places)

    def names(self) -> Sequence[str]:
        return [*self._archives.names(), *self._tables]

    def inner(self, name: str) -> str:
        return name if name in self._tables else self._archives.inner(name)

    def read(self, name: str) -> bytes:
        if name not in self._tables:
            return self._archives.read(name)
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read ({error.strerror}).") from error

    def head(self, name: str) -> bytes:
        return self.read(name)[:HEAD] if name in self._tables else self._archives.head(name)

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        return self._archives.loaders(names)


def with_tables(archives: Files, folder: Path) -> Files:
    """Return archives with the tables beside them.

    These count only if the archives hold none.
    """
    beside = tables_in(folder)
    return WithTables(archives, folder, beside) if beside and not _has_tables(archives) else archives


def note_tables(archive: Files) -> None:
    """Warn in the notes of an archive of tables beside it.

    They are read only if their folder is named.
    """
    beside = tables_in(archive.path.parent)
    if beside and not _has_tables(archive):
        archive.notes.append(
            f"{beside[0]} beside {archive.path.name} is not read: to use it, name the folder that has both."
        )


def tables_in(folder: Path) -> list[str]:
    """Return the names of the tables in a folder.

    There are none if it cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if name.lower() in TABLES)
    except OSError:
        return []


def _has_tables(archives: Files) -> bool:
    return any(name.rsplit("/", 1)[-1].lower() in TABLES for name in archives.names())
