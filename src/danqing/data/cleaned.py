"""A source without the images that a clean list drops, and with the labels that it corrects."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from danqing.data.clean_list import CleanRow, read_clean_list
from danqing.data.records import ImageSpec, Loaded, Record, Source, digest
from danqing.data.survey import Survey
from danqing.errors import DataError
from danqing.image_files import Frame

_NAMED = 3


def cleaned(source: Source, split: str, path: str | Path) -> Source:
    """Apply a clean list to a source.

    split: that of the source; "all" applies the decisions of all splits.
    The source itself is returned if the list changes none of its images. Raises DataError.
    """
    rows = [row for row in read_clean_list(path) if row.decision != "keep" and split in (row.split, "all")]
    return Cleaned(source, rows, Path(path).name) if rows else source


class Cleaned:
    """A source without the images that a clean list drops.

    Some of its images may get other labels. rows: the decisions that are not "keep". file: the name of their
    list, for people.
    """

    def __init__(self, source: Source, rows: Sequence[CleanRow], file: str) -> None:
        self._source, self._rows, self._file = source, rows, file
        self.about, self.label_names = source.about, source.label_names
        self.attributes, self.natural = source.attributes, source.natural

    def key(self) -> str:
        decided = sorted((row.decision, row.name, row.suggested, row.digest) for row in self._rows)
        return digest("cleaned", self._source.key(), *(cell for row in decided for cell in row))

    def count(self) -> int:
        return self._source.count() - self._counts["drop"]

    def survey(self) -> Survey:
        seen = self._source.survey()
        survey = Survey(Counter(seen.left_out), list(seen.named), dict(seen.understood), list(seen.notes))
        for row in self._found.values():
            if row.decision == "drop":
                survey.leave_out(row.name, "left out by the clean list")
        if relabelled := self._counts["relabel"]:
            survey.notes.append(f"The clean list changes the labels of images: {relabelled:,}.")
        if lacking := len(self._rows) - len(self._found):
            survey.notes.append(
                f"{lacking:,} of the images that the clean list changes are not in {self.about.name}."
            )
        return survey

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        return islice(self._kept(spec), start, None)

    def _kept(self, spec: ImageSpec) -> Iterator[Record]:
        for place, record in enumerate(self._source.records(spec)):
            row = self._found.get(place)
            if row is None:
                yield record
            elif row.decision == "relabel":
                yield record._replace(label=row.suggested)

    @functools.cached_property
    def _counts(self) -> Counter[str]:
        return Counter(row.decision for row in self._found.values())

    @functools.cached_property
    def _found(self) -> dict[int, CleanRow]:
        """Return the decisions by the place of their image; raise DataError."""
        by_name: dict[str, list[CleanRow]] = {}
        for row in self._rows:
            by_name.setdefault(row.name, []).append(row)
        found: dict[int, CleanRow] = {}
        changed = list[str]()
        for place, record in enumerate(self._source.records(ImageSpec())):
            rows = by_name.get(shown_name(record.name))
            if rows is None:
                continue
            content = digest_of(record) if any(row.digest for row in rows) else None
            fits = [row for row in rows if not row.digest or content in (row.digest, None)]
            if fits:
                found[place] = fits[0]
            elif len(rows) == 1:  # several images of one name are told apart by their digests
                changed.append(record.name)
        if changed:
            raise DataError(
                f"{', '.join(changed[:_NAMED])} changed since {self._file} was written "
                f"({len(changed):,} in all): run danqing data clean again."
            )
        names = [row.name for row, count in Counter(found.values()).items() if count > 1 and not row.digest]
        if names:
            raise DataError(
                f"{self.about.name} has several images named {names[0]}, which {self._file} cannot tell "
                "apart: give them names of their own."
            )
        if not found:
            raise DataError(
                f"{self._file} is about other data: none of the {len(self._rows):,} images that it "
                f"changes is in {self.about.name}."
            )
        return found


def shown_name(name: str) -> str:
    """Return a name as text that UTF-8 can encode."""
    return name.encode("utf-8", "replace").decode()


def digest_of(record: Record) -> str | None:
    """Return a sha256 of an image's file or pixels, in hexadecimal.

    "" for an image that is drawn when it is loaded, which only its name identifies; None if it cannot be
    read.
    """
    try:
        return _digest(record.load())
    except (DataError, OSError):
        return None


def _digest(image: Loaded) -> str:
    if isinstance(image, Frame):
        return digest(_digest(image.source), str(image.number))
    if isinstance(image, Path):
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(image, np.ndarray):
        return digest(str(image.shape), image.tobytes())
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else ""
