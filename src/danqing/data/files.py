"""The files of a folder or an archive as one flat list of paths."""

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
"""The number of bytes at the beginning of a file that identify DICOM."""


class Files(Protocol):
    """Files by relative path with `/`, in the fastest order for reading.

    names: the files that may be data, without those that systems and programs leave behind. ignored: the
    number of other files, by reason. notes: sentences about the names.
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
        """Return the path of a file inside its archive."""
        ...

    def read(self, name: str) -> bytes:
        """Read one small file; raises DataError."""
        ...

    def head(self, name: str) -> bytes:
        """Read the first 132 bytes of a file, or nothing."""
        ...

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        """Yield the loader of each of some files.

        They must be in the order of `names()`.
        """
        ...


class Listing:
    """Return decoded paths, each with the raw name that the system uses.

    Names are decoded together, and normalised to Unicode's composed form.
    Both path separators count, and no path leads out: `../a.png` is `a.png`. known: the text of names whose
    encoding is stated.
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
            self.notes.append(f"{damaged} file names cannot be decoded; the images are still used.")


def _inside(path: str) -> str:
    """Return a path that cannot lead out of the folder or archive."""
    parts = posixpath.normpath(path.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _free(name: str, taken: dict[str, bytes]) -> str:
    """Return a unique name: two names may differ only in their Unicode form."""
    stem, ending = posixpath.splitext(name)
    number = 1
    while name in taken:
        number += 1
        name = f"{stem} ({number}){ending}"
    return name


def too_large(size: int) -> DataError:
    """Return the error for a file over the limit."""
    return DataError(
        f"The file has {size / 2**20:.0f} MiB, over {MAX_BYTES / 2**20:.0f}: make it smaller first."
    )
