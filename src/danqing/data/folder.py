"""A folder of files, with all folders below it."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from danqing.data.files import HEAD, Listing, Loader
from danqing.data.leftovers import is_leftover
from danqing.data.records import digest
from danqing.errors import DataError
from danqing.image_files.formats import is_image_name


class Folder:
    """The files below a folder; links to folders are followed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.ignored = Counter[str]()

    def key(self) -> str:
        """Return a hash of all files' names, sizes and times.

        A sum of hashes, which needs constant memory and no sorting.
        """
        total = 0
        for name, entry in self._walk(self.path, "", Counter()):
            try:
                status = entry.stat()
            except OSError as error:
                raise DataError(f"{entry.path} cannot be read ({error.strerror}).") from error
            text = f"{name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
            total += int.from_bytes(hashlib.blake2b(text, digest_size=32).digest(), "big")
        return digest("folder", str(total))

    def names(self) -> Sequence[str]:
        return self._names

    def inner(self, name: str) -> str:
        return name

    def read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error

    def head(self, name: str) -> bytes:
        try:
            with open(self._path(name), "rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        return (functools.partial(self._path, name) for name in names)

    def count_images(self, most: int) -> int:
        """Count the image files, and stop when there are more than `most`."""
        count = 0
        for name, _ in self._walk(self.path, "", Counter()):
            count += is_image_name(name)
            if count > most:
                break
        return count

    def _path(self, name: str) -> Path:
        raw = self._raw.get(name)
        return self.path / (name if raw is None else os.fsdecode(raw))

    @functools.cached_property
    def _names(self) -> list[str]:
        seen = Counter[str]()
        listing = Listing(os.fsencode(name) for name, _ in self._walk(self.path, "", seen))
        self.notes += listing.notes
        self.ignored += seen + listing.ignored
        # Only the few names that differ from the system's are kept, to save memory for a million files.
        self._raw = {name: raw for name, raw in listing.raw.items() if os.fsdecode(raw) != name}
        return sorted(listing.raw)

    def _walk(
        self, folder: Path, prefix: str, ignored: Counter[str], above: frozenset[str] = frozenset()
    ) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        """Yield every file that may be data; count the others in `ignored`."""
        real = os.path.realpath(folder)
        if real in above:  # a link that leads back up
            ignored["links that lead back to a folder above"] += 1
            return
        try:
            entries = os.scandir(folder)
        except OSError as error:
            if not prefix:
                raise DataError(f"{folder} cannot be read ({error.strerror}).") from error
            ignored[f"folders that cannot be read ({error.strerror})"] += 1
            return
        with entries:
            for entry in entries:
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    is_folder = is_file = False
                if is_leftover(entry.name, is_folder=is_folder):
                    ignored["files and folders that systems and programs leave behind"] += 1
                elif is_folder:
                    inner = f"{prefix}{entry.name}/"
                    yield from self._walk(Path(entry.path), inner, ignored, above | {real})
                elif is_file:
                    yield prefix + entry.name, entry
                elif entry.is_symlink():
                    ignored["broken links"] += 1
                else:
                    ignored["files of a special kind, such as pipes"] += 1
