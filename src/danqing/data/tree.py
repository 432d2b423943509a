"""Folders and zip archives of pictures: class sub-folders, split folders, and `metadata.jsonl` or `.csv`."""

import csv
import functools
import hashlib
import io
import json
import os
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from danqing.data.records import About, ImageSpec, Natural, Record, digest, file_key, text_of
from danqing.errors import DataError, MissingSplitError
from danqing.image_files import MAX_BYTES

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
        ".tga",
        ".ico",
        ".pcx",
        ".qoi",
        ".sgi",
        ".apng",
        ".mpo",
    ]
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
METADATA = ("metadata.jsonl", "metadata.csv")


class Tree(Protocol):
    """Files by their relative POSIX path."""

    path: Path

    def key(self) -> str: ...
    def names(self) -> Iterator[str]: ...
    def loader(self, name: str) -> Callable[[], bytes | Path]: ...
    def read(self, name: str) -> bytes: ...


class Folder:
    """The files below a folder; links to folders are followed once, hidden files are not seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def key(self) -> str:
        """The sum of a hash per file of name, size and time: no sorting, constant memory for any number."""
        total = 0
        for name, entry in self._walk(self.path, ""):
            try:
                status = entry.stat()
            except OSError as error:
                raise DataError(f"{entry.path} cannot be read ({error.strerror}).") from error
            text = f"{name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
            total += int.from_bytes(hashlib.blake2b(text, digest_size=32).digest(), "big")
        return digest("folder", str(total))

    def names(self) -> Iterator[str]:
        return (name for name, _ in self._walk(self.path, ""))

    def loader(self, name: str) -> Callable[[], bytes | Path]:
        return functools.partial(Path, self.path, name)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read ({error.strerror}).") from error

    def _walk(
        self, folder: Path, prefix: str, above: frozenset[str] = frozenset()
    ) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        real = os.path.realpath(folder)
        if real in above:  # a link that leads back up
            return
        try:
            entries = os.scandir(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be read ({error.strerror}).") from error
        with entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", above | {real})
                elif entry.is_file():
                    yield prefix + entry.name, entry


class Zip:
    """The members of a zip archive, read in place: nothing is unpacked, so no path can lead anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(f"{path} is no zip archive that can be read: {error}.") from error
        self._members = {
            info.filename: info
            for info in self._archive.infolist()
            if not info.is_dir() and not any(map(_is_hidden, info.filename.split("/")))
        }

    def key(self) -> str:
        return digest("zip", file_key(self.path))

    def names(self) -> Iterator[str]:
        return iter(self._members)

    def loader(self, name: str) -> Callable[[], bytes | Path]:
        return functools.partial(self.read, name)

    def read(self, name: str) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise DataError("It is not in the archive.")
        if member.flag_bits & 1:
            raise DataError("It is encrypted: unpack the archive first.")
        if member.file_size > MAX_BYTES:
            raise DataError(
                f"It has {member.file_size / 2**20:.0f} MiB: at most {MAX_BYTES / 2**20:.0f} are read."
            )
        try:
            return self._archive.read(member)  # never more than file_size, and its checksum is verified
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError, MemoryError) as error:
            raise DataError(f"The archive is damaged here ({error}).") from error
        except Exception as error:  # zlib, lzma and bz2 have errors of their own
            raise DataError(f"The archive is damaged here ({type(error).__name__}: {error}).") from error


class TreeSource:
    """The pictures of a folder or zip: labels from `metadata` if there is one, otherwise from sub-folders."""

    label_names: tuple[str, ...] = ()
    natural: Natural | None = None

    def __init__(self, tree: Tree, split: str) -> None:
        self.tree, self.split = tree, split
        self.about = About(tree.path.resolve().stem or "images")

    def key(self) -> str:
        return digest(self.tree.key(), self.split)

    def count(self) -> int:
        return len(self._found.rows)

    def notes(self) -> list[str]:
        return self._found.notes

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        for name, label, text in self._found.rows[start:]:
            yield Record(name, self.tree.loader(name), label, text)

    @functools.cached_property
    def _found(self) -> "_Found":
        return _find(self.tree, self.split)


class _Found:
    """Rows (file name, label, text) in their order, and what to say about the rest."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None, str | None]] = []
        self.notes: list[str] = []


def _find(tree: Tree, split: str) -> _Found:
    found = _Found()
    names = sorted(tree.names())
    if not names:
        raise DataError(f"{tree.path} holds no files: name a folder with pictures.")
    root = _root(names)
    names = [name for name in names if name.startswith(root)]
    chosen, has_splits = _of_split(names, root, split)
    if not chosen:
        raise MissingSplitError(_no_split(tree.path, names, root, split))
    metadata = [name for name in chosen if posixpath.basename(name) in METADATA]
    if not has_splits or split == "all":
        metadata += [root + name for name in METADATA if root + name in names and root + name not in metadata]
    pictures = [name for name in chosen if posixpath.splitext(name)[1].lower() in SUFFIXES]
    if metadata:
        _by_metadata(tree, metadata, set(pictures), split, found)
    else:
        top = len(root)
        for name in pictures:
            parts = name[top:].split("/")[:-1]
            label = parts[1 if has_splits and parts and parts[0].lower() in SPLITS else 0 :][:1]
            found.rows.append((name, label[0] if label else None, None))
    others = sum(posixpath.basename(name) not in METADATA for name in chosen) - len(pictures)
    if others:
        drawings = sum(name.lower().endswith((".svg", ".svgz")) for name in chosen)
        advice = f" ({drawings} of them SVG drawings: convert them to PNG first)" if drawings else ""
        found.notes.append(f"{others} files are no pictures and were left out{advice}.")
    if not found.rows and metadata and split not in ("train", "all"):
        raise MissingSplitError(f"{tree.path} has no {split} split: its metadata gives it no pictures.")
    if not found.rows:
        raise DataError(
            f"{tree.path} holds no pictures: "
            + (" ".join(found.notes) or "name a folder with png, jpeg or webp files.")
        )
    return found


def _root(names: list[str]) -> str:
    """The folder that wraps everything, as archives often have one; a split's or the only class's is kept."""
    root = ""
    while True:
        tops = {name[len(root) :].split("/", 1)[0] for name in names}
        inner = f"{root}{next(iter(tops))}/"
        if len(tops) != 1 or not all(name.startswith(inner) for name in names):
            return root
        if next(iter(tops)).lower() in SPLITS:
            return root
        root = inner


def _of_split(names: list[str], root: str, split: str) -> tuple[list[str], bool]:
    """The names of a split, and whether the data has splits; without any, everything is for training."""
    by_split: dict[str, list[str]] = {}
    for name in names:
        head, _, rest = name[len(root) :].partition("/")
        by_split.setdefault(SPLITS.get(head.lower(), "") if rest else "", []).append(name)
    if "train" not in by_split:
        return (names if split in ("train", "all") else []), False
    if split == "all":
        return names, True
    return by_split.get(split, []), True


def _no_split(path: Path, names: list[str], root: str, split: str) -> str:
    heads = {
        SPLITS.get(name[len(root) :].split("/", 1)[0].lower()) for name in names if "/" in name[len(root) :]
    }
    known = sorted(head for head in heads if head)
    if split not in ("train", "test", "validation", "all"):
        return f"There is no split {split!r}: choose train, test, validation or all."
    has = f"it has {' and '.join(known)}" if known else "put its pictures into train/ and test/ to make one"
    return f"{path} has no {split} split: {has}."


def _by_metadata(tree: Tree, files: list[str], pictures: set[str], split: str, found: _Found) -> None:
    seen: set[str] = set()
    refused = 0
    for file in files:
        base = posixpath.dirname(file)
        for number, row in enumerate(_rows(tree.read(file), file), start=1):
            if not row.get("file_name"):
                raise DataError(f"{file}, entry {number}, has no file_name: give each picture's path there.")
            if "split" in row and split != "all" and SPLITS.get(str(row["split"]).lower()) != split:
                continue
            name = posixpath.normpath(posixpath.join(base, str(row["file_name"]).replace("\\", "/")))
            if name.startswith(("/", "..")) or ":" in name.split("/")[0]:
                refused += 1
                continue
            label = row.get("label")
            found.rows.append((name, None if label in (None, "") else str(label), text_of(row.get("text"))))
            seen.add(name)
    if refused:
        found.notes.append(f"{refused} entries of the metadata lead out of the data and were refused.")
    unlisted = len(pictures - seen)
    if unlisted:
        found.notes.append(f"{unlisted} pictures are not in the metadata and were left out.")


def _rows(content: bytes, file: str) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: save it as UTF-8.") from error
    if file.endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            yield from table
        except csv.Error as error:
            raise DataError(
                f"{file}, line {table.reader.line_num}, is no CSV that can be read: {error}."
            ) from error
        return
    for number, line in enumerate(io.StringIO(text), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number}, is no JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}, is no JSON object: write one object to a line.")
            yield row


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")
