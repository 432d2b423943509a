"""The files of a folder or an archive as one flat list of paths, whatever holds them."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from danqing.data.leftovers import lies_in_leftovers
from danqing.errors import DataError
from danqing.image_files import MAX_BYTES
from danqing.names import decoded, normalized

Loader = Callable[[], bytes | Path]
HEAD = 132
"""Bytes at the beginning of a file that tell DICOM from anything else."""


class Files(Protocol):
    """Files by their relative path with `/`, in the order in which they are best read.

    names: those that may be data; what machines leave behind is not among them. ignored: how many files are
    not, by the reason. notes: sentences on the names.
    """

    path: Path
    ignored: Counter[str]
    notes: list[str]

    def key(self) -> str:
        """Return a short text that changes when the files do."""
        ...

    def names(self) -> Sequence[str]:
        """List the files."""
        ...

    def inner(self, name: str) -> str:
        """Return the path of a file without the archive that holds it."""
        ...

    def read(self, name: str) -> bytes:
        """Read one small file; raises DataError."""
        ...

    def head(self, name: str) -> bytes:
        """Read the first 132 bytes of a file, or nothing where that is not possible."""
        ...

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        """Yield what loads each of some files, which must be in the order of `names()`."""
        ...


class Listing:
    """Paths as people read them, each with the raw name that the system knows it by.

    Names are decoded together, since all have the same encoding, and brought to Unicode's composed form. Both
    path separators count, and nothing leads out: `../a.png` is `a.png`. known: the text of names whose
    encoding is said.
    """

    def __init__(self, raws: Iterable[bytes], known: Mapping[bytes, str] | None = None) -> None:
        self.ignored = Counter[str]()
        self.raw: dict[str, bytes] = {}
        self.notes: list[str] = []
        known, raws = known or {}, list(raws)
        texts, encoding = decoded(raw for raw in raws if raw not in known)
        for raw in raws:
            path = _inside(normalized(known[raw]) if raw in known else texts[raw])
            if not path:
                self.ignored["files without a name"] += 1
            elif lies_in_leftovers(path):
                self.ignored["files that systems and programs leave behind"] += 1
            else:
                self.raw[_free(path, self.raw)] = raw
        if encoding != "utf-8":
            self.notes.append(f"File names were decoded as {encoding}, not UTF-8.")
        if damaged := sum("\N{REPLACEMENT CHARACTER}" in name for name in self.raw):
            self.notes.append(f"{damaged} file names cannot be decoded; the images are used all the same.")


def _inside(path: str) -> str:
    """A path below the folder or archive, whatever it says."""
    parts = posixpath.normpath(path.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _free(name: str, taken: dict[str, bytes]) -> str:
    """A name that no other file has: two may differ in their Unicode form alone."""
    stem, ending = posixpath.splitext(name)
    number = 1
    while name in taken:
        number += 1
        name = f"{stem} ({number}){ending}"
    return name


def too_large(size: int) -> DataError:
    """The error for a file over the limit of `size` bytes."""
    return DataError(
        f"The file has {size / 2**20:.0f} MiB, over {MAX_BYTES / 2**20:.0f}: make it smaller first."
    )
