"""A source of records whose images are files, in a folder or in archives."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from danqing.data import pairs, tables, yolo
from danqing.data.boxes import Objects, objects_of_cell
from danqing.data.files import Files, Loader
from danqing.data.layout import NOTHING_DECLARED, Declared, ImageEntry, Layout, lay_out
from danqing.data.raw_targets import RawTargets
from danqing.data.records import About, ImageSpec, Natural, Record, digest
from danqing.data.side_files import Words, read_beside
from danqing.data.survey import Survey
from danqing.errors import DataError
from danqing.image_files import Frame

_ARCHIVE = re.compile(r"\.(?:zip|tgz|tar(?:\.\w+)?)$", re.IGNORECASE)


class FileSource:
    """The images of a folder, a zip or tar archives.

    Tables, side files and folder names describe them.
    """

    label_names: tuple[str, ...] = ()
    natural: Natural | None = None

    def __init__(self, files: Files, split: str, declared: Declared = NOTHING_DECLARED) -> None:
        self.files, self.split, self.declared = files, split, declared
        self.attributes = declared.attributes
        self.about = About(_ARCHIVE.sub("", files.path.resolve().name) or "images")

    def key(self) -> str:
        return digest(self.files.key(), self.split, *self.declared.key())

    def count(self) -> int:
        return len(self._layout.rows)

    def survey(self) -> Survey:
        return self._layout.survey

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        rows = self._layout.rows[start:]
        there = [row for row in rows if not row.missing]
        loaders = self.files.loaders([row.name for row in there])
        for row, load in zip(there, loaders, strict=True):
            yield self._record(row, load)
        yield from (Record(row.name, functools.partial(_refuse, row.missing)) for row in rows if row.missing)

    @functools.cached_property
    def _layout(self) -> Layout:
        return lay_out(self.files, self.split, self.declared)

    def _record(self, row: ImageEntry, load: Loader) -> Record:
        try:
            words = read_beside(row.beside, self.files.read) if any(row.beside) else Words()
        except DataError as error:  # an image whose label cannot be read counts as unreadable
            return Record(row.name, functools.partial(_refuse, str(error)))
        values: tuple[Any, ...] = row.attributes
        if self.declared.attributes and not any(not tables.is_missing(value) for value in values):
            values = tuple(words.value(name) for name in self.declared.attributes)
        target: Any = load if row.frame is None else functools.partial(_frame, load, row.frame)
        source: Any = None
        if self.declared.pairs in pairs.HALVES:
            sources, targets = pairs.halves_of(self.declared.pairs)
            source, target = (functools.partial(pairs.half, load, which) for which in (sources, targets))
        elif row.partner is not None:
            (source,) = self.files.loaders([row.partner])
        return Record(
            row.name if row.frame is None else f"{row.name}#{row.frame}",
            target,
            label=row.label if row.label is not None else words.label,
            text=row.caption or words.caption,
            source=source,
            attributes=values,
            targets=self._targets(row, words),
        )

    def _targets(self, row: ImageEntry, words: Words) -> RawTargets | None:
        """Return the targets of an image, if any are declared."""
        declared, boxes_from = self.declared, self._layout.boxes_from
        if not (declared.masks or declared.boxes or declared.label_sets):
            return None
        mask: Any = None
        if row.mask is not None:
            (mask,) = self.files.loaders([row.mask])
            mask = mask if row.frame is None else functools.partial(_frame, mask, row.frame)
        labels = row.label_set
        if declared.label_sets and labels is None:
            labels = tables.several_labels(words.label_set(declared.label_sets))
        has_boxes = bool(declared.boxes) and not boxes_from
        objects = functools.partial(self._objects, row.objects) if has_boxes else None
        return RawTargets(labels, mask, objects, boxes_from)

    def _objects(self, found: Any) -> Objects:
        """Return the objects of an image, which may be in a text file or a cell."""
        if isinstance(found, Objects):
            return found
        if isinstance(found, yolo.TextFile):
            names = self._layout.survey.class_names.get("Boxes", ())
            return yolo.read_boxes(found.place, self.files.read(found.place), names)
        return objects_of_cell(found)


def _frame(load: Loader, number: int) -> Frame:
    return Frame(load(), number)


def _refuse(reason: str) -> bytes | Path | Image.Image:
    raise DataError(reason)
