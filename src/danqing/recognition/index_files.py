"""The folder of an index: files of rows that never change, and a small file that lists them.

Rows that were added are written to a new file, which absorbs the files before it that are no larger. So each
row is rewritten about log2(n) times at most, and there are about as many files. Deleted rows are listed, and
left out when their file is rewritten. `index.json` is replaced last: a writer that is killed changes nothing.
"""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import filelock
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from danqing import atomic, weights
from danqing.errors import ModelError, SearchError, explain
from danqing.version import __version__

FORMAT = 1
"""It increases when an older version could no longer read a new index."""
_HEAD = "index.json"
_MOST = 2**38
"""Rows that an index ever had; the bytes of more, at most dimensions, cannot be counted in 64 bits."""


class RowsFile(BaseModel):
    """A file of rows.

    name: without its ending. rows: how many. last: the serial of the last one.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern="^rows-[0-9]{1,12}$")
    rows: int = Field(ge=1, le=_MOST)
    last: int = Field(ge=0, lt=_MOST)


class GraphFile(BaseModel):
    """The file of a graph of neighbours.

    name: without its ending. covers: a serial above those in it.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern="^graph-[0-9]{1,12}$")
    covers: int = Field(ge=1, le=_MOST)


class Head(BaseModel):
    """The content of `index.json`.

    generation: how often the folder was written. next_serial: the serial of the row that is added next.
    deleted: the serials of rows in the files that do not count. facts: those of the user of the index.
    graph: None where all searches are exact.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    version: str = __version__
    generation: int = Field(0, ge=0)
    dimensions: int = Field(ge=1, le=1 << 20)
    next_serial: int = Field(ge=0, le=_MOST)
    files: tuple[RowsFile, ...] = ()
    deleted: tuple[Annotated[int, Field(ge=0, lt=_MOST)], ...] = ()
    facts: dict[str, Any] = {}
    graph: GraphFile | None = None


class Entries(NamedTuple):
    """Rows with all that belongs to them, ordered by serial.

    vectors: float32 `[n, d]`. serials: int64 `[n]`, ascending; no two rows of an index ever have the same.
    """

    vectors: Tensor
    serials: Tensor
    ids: list[str]
    labels: list[str]

    def chosen(self, rows: Tensor) -> "Entries":
        """Return the rows at some places, int64 `[m]`."""
        places = rows.tolist()
        ids, labels = [self.ids[place] for place in places], [self.labels[place] for place in places]
        return Entries(self.vectors[rows], self.serials[rows], ids, labels)


def exists(folder: Path) -> bool:
    """Return whether a folder holds an index."""
    return (folder / _HEAD).is_file()


def read(folder: Path) -> tuple[Head, Entries]:
    """Read an index, without its deleted rows.

    Raises SearchError where there is none, or it is damaged or of a newer version.
    """
    while True:
        head = read_head(folder)
        try:
            return head, _read_entries(folder, head)
        except SearchError:
            if read_head(folder).generation == head.generation:  # otherwise it was written meanwhile
                raise


def _read_entries(folder: Path, head: Head) -> Entries:
    parts = [_read_rows(folder, file, head.dimensions) for file in head.files]
    parts = parts or [Entries(torch.empty(0, head.dimensions), torch.empty(0, dtype=torch.int64), [], [])]
    found = Entries(
        torch.cat([part.vectors for part in parts]) if len(parts) > 1 else parts[0].vectors,
        torch.cat([part.serials for part in parts]),
        [each for part in parts for each in part.ids],
        [each for part in parts for each in part.labels],
    )
    if bool((found.serials.diff() <= 0).any()) or any(found.serials[-1:] >= head.next_serial):
        raise SearchError(f"The rows of the index {folder} are out of order: build it again.")
    if not head.deleted:
        return found
    return found.chosen((~torch.isin(found.serials, torch.tensor(head.deleted))).nonzero()[:, 0])


def read_head(folder: Path) -> Head:
    """Read `index.json`; raises SearchError."""
    path = folder / _HEAD
    try:
        head = Head.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise SearchError(f"There is no index in {folder}: build one with danqing index.") from error
    except OSError as error:
        raise SearchError(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValidationError as error:
        raise SearchError(f"{path} is damaged ({explain(error)}) Build the index again.") from error
    if head.format > FORMAT:
        raise SearchError(
            f"The index {folder} was written by danqing {head.version}, in a format that this version "
            "cannot read: update danqing."
        )
    return head


def write(folder: Path, before: Head | None, entries: Entries, head: Head) -> Head:
    """Write what has changed in a folder, and return its new head.

    before: the head that was last read or written; None for a new folder. entries: all rows that count. head:
    what `index.json` should say, with all deleted serials; files and generation are filled in.
    Raises SearchError where the folder cannot be written, or has changed since.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "index.lock"):
            current = read_head(folder).generation if exists(folder) else 0
            if current != (before.generation if before else 0):
                raise SearchError(
                    f"The index {folder} has changed since it was loaded: load it again, then repeat that."
                )
            return _write(folder, before.files if before else (), entries, head, current + 1)
    except OSError as error:
        raise SearchError(
            f"The index cannot be written to {folder} ({error.strerror or error}): make room there, or "
            "choose another folder."
        ) from error


def _write(folder: Path, files: tuple[RowsFile, ...], entries: Entries, head: Head, generation: int) -> Head:
    kept, first = _unchanged(files, entries.serials)
    kept_files = files[:kept]
    if first < len(entries.serials):
        name = f"rows-{generation}"
        written = entries.chosen(torch.arange(first, len(entries.serials))) if first else entries
        _write_rows(folder / name, written)
        last = int(written.serials[-1])
        kept_files = (*kept_files, RowsFile(name=name, rows=len(written.ids), last=last))
    last = files[kept - 1].last if kept else -1
    deleted = tuple(serial for serial in head.deleted if serial <= last)
    new = head.model_copy(update={"generation": generation, "files": kept_files, "deleted": deleted})
    atomic.write_text(folder / _HEAD, new.model_dump_json() + "\n")
    names = {file.name for file in kept_files} | ({new.graph.name} if new.graph else set())
    for path in (*folder.glob("rows-*"), *folder.glob("graph-*")):
        if path.stem not in names:
            path.unlink(missing_ok=True)
    atomic.remove_leftovers(folder)
    return new


def _unchanged(files: tuple[RowsFile, ...], serials: Tensor) -> tuple[int, int]:
    """How many files stay as they are, and the place of the first row that is not in them.

    A file is rewritten where more than half of its rows are deleted, or as many rows follow as it has.
    """
    lasts = torch.tensor([-1, *(file.last for file in files)])
    ends = torch.searchsorted(serials, lasts, right=True).tolist()
    counts = [end - start for start, end in itertools.pairwise(ends)]
    kept = next((n for n, file in enumerate(files) if 2 * counts[n] < file.rows), len(files))
    while kept and counts[kept - 1] <= len(serials) - ends[kept]:
        kept -= 1
    return kept, ends[kept]


def _write_rows(stem: Path, rows: Entries) -> None:
    tensors = {"vectors": rows.vectors, "serials": rows.serials}
    weights.write(stem.with_suffix(".safetensors"), tensors)
    words = {"ids": rows.ids, "labels": rows.labels}
    atomic.write_text(stem.with_suffix(".json"), json.dumps(words, ensure_ascii=False) + "\n")


def _read_rows(folder: Path, file: RowsFile, dimensions: int) -> Entries:
    path = folder / f"{file.name}.safetensors"
    with torch.device("meta"):
        expected = {
            "vectors": torch.empty(file.rows, dimensions),
            "serials": torch.empty(file.rows, dtype=torch.int64),
        }
    try:
        weights.check(path, expected)
        tensors = weights.read(path, expected)
        words = json.loads(path.with_suffix(".json").read_bytes())
        ids, labels = words["ids"], words["labels"]
    except (ModelError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SearchError(f"{path} is damaged ({error}): build the index again.") from error
    if not all(
        isinstance(names, list) and len(names) == file.rows and set(map(type, names)) == {str}
        for names in (ids, labels)
    ):
        raise SearchError(f"{path.with_suffix('.json')} does not name each row: build the index again.")
    return Entries(tensors["vectors"], tensors["serials"], ids, labels)
