"""The images to edit, by name: one file, several, a folder, a pattern such as `photos/*.jpg`, or a zip."""

import functools
import glob
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from danqing import image_files
from danqing.data.files import Loader
from danqing.data.folder import Folder
from danqing.data.headers import described
from danqing.data.zip_file import Zip
from danqing.errors import ConfigError, DataError
from danqing.image_files import MAX_BYTES
from danqing.image_files.formats import is_image_name

Source = str | Path | Sequence[str | Path]
"""A file, a folder, a zip or a pattern with `*`, `?` or `[...]`; or several files."""

_NUMBERS = re.compile(r"(\d+)")


class _Files(Protocol):
    def read(self, name: str) -> bytes: ...

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]: ...


class Inputs(NamedTuple):
    """Images by name, in natural order: `2.png` is before `10.png`.

    names: relative to the input, with `/`. files: reads them. is_single: whether the input is one file.
    places: the files and folders that the input consists of, which an output must not replace. root: the
    folder that names are relative to, None for a zip. ignored: the number of files that are left out, by
    reason.
    """

    names: tuple[str, ...]
    files: _Files
    is_single: bool
    places: tuple[Path, ...]
    root: Path | None
    ignored: Counter[str]

    def outside(self, folder: Path) -> "Inputs":
        """Return the images that are not in a folder.

        The outputs may be in a folder of the input, and are not images to edit.

        Raises DataError if there are none.
        """
        if self.root is None or not folder.resolve().is_relative_to(root := self.root.resolve()):
            return self
        inside = folder.resolve().relative_to(root).as_posix() + "/"
        if inside == "./":
            return self
        names = tuple(name for name in self.names if not name.startswith(inside))
        if not names:
            raise DataError(f"All images are in {folder}, which is for the results: choose another --out.")
        return self._replace(names=names)

    def read(self, name: str) -> bytes:
        """Read one file; raise DataError."""
        return self.files.read(name)

    def depth(self, name: str) -> int:
        """Return how many bits a value of an image has.

        They are 8 or 16; 16 if that is unknown.
        """
        try:
            return image_files.inspect(self.read(name)).depth
        except DataError:
            return 16

    def size(self, name: str) -> tuple[int, int] | None:
        """Return (width, height) of an image from its header, None if it is unknown."""
        try:
            return described(next(self.files.loaders([name]))())[1]
        except DataError:
            return None


def find(source: Source) -> Inputs:
    """Find the images to edit.

    Raises ConfigError for an input that does not exist, and DataError for one without images.
    """
    if not isinstance(source, str | Path):
        if len(source) == 1:
            return find(source[0])
        return _several([path for each in source for path in _expanded(each)])
    path = Path(source).expanduser()
    if path.is_dir():
        folder = Folder(path)
        return _chosen(folder.names(), folder, (path,), path, folder.ignored)
    if path.is_file() and zipfile.is_zipfile(path):
        archive = Zip(path)
        return _chosen(archive.names(), archive, (path,), None, archive.ignored)
    found = _expanded(source)
    if path.exists():
        return Inputs((path.name,), _Paths({path.name: path}), True, (path,), path.parent, Counter())
    return _several(found, str(source))


class _Paths:
    """Single files by name."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths

    def read(self, name: str) -> bytes:
        path = self._paths[name]
        try:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"The file has over {MAX_BYTES / 2**20:.0f} MiB: shrink it first.")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        return (functools.partial(Path, self._paths[name]) for name in names)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key in which numbers count as numbers."""
    parts = _NUMBERS.split(name)
    # A digit sorts before a letter, as in the alphabet of computers.
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)] + [(-1, name)]


def _expanded(source: str | Path) -> list[Path]:
    """Return the file of this name, or those that fit a pattern; raise ConfigError if there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give one folder alone, or several files.")
    found = (
        [Path(each) for each in glob.glob(str(source), recursive=True)] if glob.has_magic(str(source)) else []
    )
    files = [each for each in found if each.is_file()]
    if not files:
        missing = "No file fits the pattern" if glob.has_magic(str(source)) else "There is no file or folder"
        raise ConfigError(f"{missing} {source}: give an image, a folder, a zip or a pattern such as '*.png'.")
    return files


def _several(paths: Sequence[Path], pattern: str = "") -> Inputs:
    """Name files relative to the folder that they have in common."""
    whole = sorted({Path(os.path.abspath(path)) for path in paths})
    root = _fixed_part(pattern) if pattern else Path(os.path.commonpath([path.parent for path in whole]))
    named = {path.relative_to(root).as_posix(): path for path in whole}
    return _chosen(list(named), _Paths(named), tuple(whole), root, Counter())


def _fixed_part(pattern: str) -> Path:
    """Return the folder in front of the first wildcard of a pattern."""
    fixed: list[str] = []
    for part in Path(os.path.abspath(pattern)).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _chosen(
    names: Sequence[str], files: _Files, places: tuple[Path, ...], root: Path | None, ignored: Counter[str]
) -> Inputs:
    images = sorted((name for name in names if is_image_name(name)), key=natural_order)
    if not images:
        where = places[0] if len(places) == 1 else "the input"
        raise DataError(f"There are no images in {where}: their names end in .png, .jpg, .tif and so on.")
    left = Counter(ignored)
    if others := len(names) - len(images):
        left["files whose names are not those of images"] += others
    return Inputs(tuple(images), files, False, places, root, left)
