"""WebDataset shards: tar archives in which the files of one sample share a name up to its first dot."""

import functools
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from danqing.data.records import About, ImageSpec, Natural, Record, digest, file_key, text_of
from danqing.data.tree import SUFFIXES
from danqing.errors import DataError
from danqing.image_files import MAX_BYTES

MAX_WORDS = 2**20
"""Longest label or caption in bytes."""


class TarSource:
    """Samples of tar shards: an image, its label in `.cls`, `.txt` as caption, and `.json` for either."""

    label_names: tuple[str, ...] = ()
    natural: Natural | None = None

    def __init__(self, path: Path, shards: list[Path]) -> None:
        self.shards = shards
        self.about = About(path.resolve().name.split(".")[0])

    def key(self) -> str:
        return digest("webdataset", *map(file_key, self.shards))

    @functools.cache  # noqa: B019 - a source lives as long as the build
    def count(self) -> int:
        return sum(1 for _ in self._samples(read=False))

    def notes(self) -> list[str]:
        return [
            f"{shard.name} has no end mark: it may be cut short."
            for shard in self.shards
            if shard.name.endswith(".tar") and not _is_ended(shard)
        ]

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        for number, (name, parts) in enumerate(self._samples(read=True)):
            if number < start:
                continue
            ending = next(ending for ending in parts if _is_picture(ending))
            label, text = _words(parts)
            yield Record(f"{name}.{ending}", functools.partial(_content, parts[ending]), label, text)

    def _samples(self, *, read: bool) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Names with their files by ending; None stands for one over the limit, or when only counting."""
        for shard in self.shards:
            name, parts = "", dict[str, bytes | None]()
            try:
                with tarfile.open(shard, "r|*") as archive:
                    for member in archive:
                        base = posixpath.basename(member.name)
                        if not member.isfile() or base.startswith("."):
                            continue
                        stem, _, ending = base.partition(".")
                        sample = posixpath.join(posixpath.dirname(member.name), stem)
                        if sample != name:
                            if any(map(_is_picture, parts)):
                                yield name, parts
                            name, parts = sample, {}
                        limit = MAX_BYTES if _is_picture(ending) else MAX_WORDS
                        file = archive.extractfile(member) if read and member.size <= limit else None
                        parts[ending.lower()] = file.read() if file else None
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                raise DataError(f"{shard} is damaged ({error}): fetch it again.") from error
            except Exception as error:  # zlib and lzma have errors of their own
                raise DataError(f"{shard} is damaged ({type(error).__name__}): fetch it again.") from error
            if any(map(_is_picture, parts)):
                yield name, parts


def _is_ended(shard: Path) -> bool:
    """Whether a tar ends in zeros, as it should; tarfile takes one cut between two members for whole."""
    try:
        with open(shard, "rb") as file:
            file.seek(-512, os.SEEK_END)
            return not any(file.read())
    except OSError as error:
        raise DataError(f"{shard} cannot be read ({error.strerror or error}).") from error


def _is_picture(ending: str) -> bool:
    return PurePosixPath(f"x.{ending}").suffix.lower() in SUFFIXES


def _content(content: bytes | None) -> bytes:
    if content is None:
        raise DataError(f"It is larger than {MAX_BYTES / 2**20:.0f} MiB: shrink it first.")
    return content


def _words(parts: dict[str, bytes | None]) -> tuple[str | None, str | None]:
    label = text = None
    if (content := parts.get("json")) is not None:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            label = next(
                (str(values[k]) for k in ("label", "cls", "class") if values.get(k) is not None), None
            )
            found = (text_of(values.get(key)) for key in ("text", "caption", "captions"))
            text = next(filter(None, found), None)
    for ending in ("cls", "cls.txt"):
        if content := parts.get(ending):
            label = content.decode("utf-8", "replace").strip()
    for ending in ("txt", "text", "caption"):
        if content := parts.get(ending):
            text = content.decode("utf-8", "replace").strip()
    return label, text
