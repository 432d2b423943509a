"""`manifest.jsonl`: which edit made which output from which input, one JSON object a line."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from danqing import atomic

NAME = "manifest.jsonl"


class Record(NamedTuple):
    """One output.

    name: of the input. output: where it is, relative to the manifest. input: SHA-256 of the input file. edit:
    the verb and all settings that are the same for all images. extra: what differs between them, such as the
    digest of a mask. seed: of this image. is_changed: False if the input was copied. seconds: it took.
    notes: what the output lacks. frame: its place in a film. version: its number, from 0, if there are
    several of one image.
    """

    name: str
    output: str
    input: str
    edit: Mapping[str, Any]
    extra: Mapping[str, Any]
    seed: int
    is_changed: bool = True
    seconds: float = 0.0
    notes: Sequence[str] = ()
    frame: int = 0
    version: int = 0


class Manifest:
    """The records in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._folder = folder
        self._records = {(record.name, record.version): record for record in _read(self.path)}

    def records(self) -> Iterator[Record]:
        """Yield the records whose outputs exist, in order of creation."""
        return (record for record in self._records.values() if (self._folder / record.output).exists())

    def drop_lost(self) -> None:
        """Delete the records of outputs that do not exist.

        A killed process did not write them, or they were deleted.
        """
        atomic.remove_leftovers_of(self.path)
        kept = {(record.name, record.version): record for record in self.records()}
        for key in self._records.keys() - kept.keys():
            atomic.remove_leftovers_of(self._folder / self._records[key].output)
        atomic.write_bytes(self.path, b"".join(map(_line, kept.values())))  # its last line may be cut
        self._records = kept

    def add(self, record: Record) -> None:
        """Append a record, on disk when this returns.

        It comes before its output is written: an output without a record would be one of unknown origin.
        """
        with open(self.path, "ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        self._records[record.name, record.version] = record

    def find(self, name: str, version: int) -> Record | None:
        """Return the record of one version of an image.

        Returns None if there is no record, or if its output does not exist.
        """
        record = self._records.get((name, version))
        return record if record is not None and (self._folder / record.output).exists() else None


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are after writing and reading them."""
    read: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    return read


def _line(record: Record) -> bytes:
    line = json.dumps(record._asdict(), ensure_ascii=False, allow_nan=False) + "\n"
    return line.encode("utf-8", "surrogateescape")  # names of files may be no text


def _read(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            yield Record(**json.loads(line.decode("utf-8", "surrogateescape")))
        except (ValueError, TypeError, RecursionError):
            continue  # the last line of a killed process; its output was not written
