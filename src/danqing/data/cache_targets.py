"""Targets while a cache is built: masks in a file, boxes and label sets in the journal, then tables.

A mask is stored as numbers of its values in the order of their appearance. When all masks are there, their
values are numbered in ascending order, and the masks are written again.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data.masks import MOST_CLASSES, UNKNOWN, MaskClasses, Values, classes_of, too_many_values
from danqing.data.raw_targets import Box, FittedTargets
from danqing.data.records import Record
from danqing.data.targets import IGNORED, TargetClasses
from danqing.errors import DataError
from danqing.names import natural_order

_CHUNK = 2**24
JOURNALLED = ("label_sets", "boxes", "mask_values")
"""What an entry of the journal says of targets."""


class TargetTables(NamedTuple):
    """The targets of a finished cache, except for the masks.

    tensors: of `records.safetensors`. understood: what was found, by topic. digest: of the masks.
    """

    tensors: dict[str, NDArray[Any]]
    classes: TargetClasses
    understood: dict[str, str]
    notes: list[str]
    digest: bytes


NO_TARGETS = TargetTables({}, TargetClasses(), {}, [], b"")


class TargetBuild:
    """The targets of the images of one cache.

    first: the first record of the source, whose kinds of targets all others have too. size: (width, height).
    path: the file of masks; numbered: that with their classes, once it is finished.
    """

    def __init__(self, first: Record | None, cache: Path, size: tuple[int, int]) -> None:
        raw = first.targets if first is not None else None
        self.has_labels = raw is not None and raw.labels is not None
        self.has_boxes = raw is not None and (raw.objects is not None or bool(raw.boxes_from))
        self.has_masks = raw is not None and raw.mask is not None and raw.boxes_from != "instances"
        self.path, self.numbered = cache / "building.masks", cache / "building.numbered"
        self.mask_bytes = size[0] * size[1] if self.has_masks else 0
        self._size, self._numbers, self._new = size, dict[int, int](), list[int]()

    def __bool__(self) -> bool:
        return self.has_labels or self.has_boxes or self.has_masks

    def resume(self, entry: Mapping[str, Any]) -> None:
        """Load what an entry of the journal says."""
        for value in entry.get("mask_values", ()):
            self._numbers.setdefault(value, len(self._numbers))

    def clear(self) -> None:
        """Drop everything, to begin again."""
        self._numbers.clear()

    def add(self, found: FittedTargets | None, entry: dict[str, Any]) -> bytes:
        """Add the targets of one image to an entry of the journal.

        Returns the bytes of its mask.
        """
        found = found or FittedTargets()
        if self.has_labels:
            entry["label_sets"].append(list(found.labels or ()))
        if self.has_boxes:
            entry["boxes"].append([found.lost, *map(list, found.boxes or ())])
        if not self.has_masks:
            return b""
        assert found.mask is not None
        return self._numbered(found.mask, entry).tobytes()

    def _numbered(self, mask: Values, entry: dict[str, Any]) -> NDArray[np.uint8]:
        values, places = np.unique(mask, return_inverse=True)
        for value in values.tolist():
            if value != UNKNOWN and value not in self._numbers:
                self._numbers[value] = len(self._numbers)
                entry["mask_values"].append(value)
        if len(self._numbers) > MOST_CLASSES:
            raise too_many_values()
        numbers = np.array([self._numbers.get(value, IGNORED) for value in values.tolist()])
        return numbers[places].astype(np.uint8).reshape(mask.shape)

    def finish(
        self, journal: Iterator[dict[str, Any]], names: Mapping[str, Sequence[str]], header: int
    ) -> TargetTables:
        """Write the masks, and return the other tables.

        journal: all entries. names: of the classes, by topic, as of `Survey`. header: the bytes before the
        first mask in a file.
        Raises DataError if there are no classes, or too many.
        """
        sets, boxes = list[list[str]](), list[list[Any]]()
        for entry in journal:
            sets += entry["label_sets"]
            boxes += entry["boxes"]
        tables = TargetTables({}, TargetClasses(), {}, [], b"")
        classes: dict[str, tuple[str, ...]] = {}
        of_masks = classes_of(self._numbers, names.get("Masks", ())) if self._numbers else None
        if self.has_labels:
            classes["label_set"] = _label_sets(sets, tables)
        if self.has_boxes:
            classes["boxes"] = _boxes(boxes, names.get("Boxes", ()), of_masks, tables)
        shares: tuple[float, ...] = ()
        if of_masks is not None and self.has_masks:
            digest, counts = self._write_masks(of_masks, header)
            shares = tuple((counts / max(1, counts.sum())).tolist())
            classes["mask"] = of_masks.names
            tables = tables._replace(digest=digest)
            tables.understood["Masks"] = f"{len(of_masks.names):,} classes"
        return tables._replace(classes=TargetClasses(**classes, mask_shares=shares))

    def _write_masks(self, classes: MaskClasses, header: int) -> tuple[bytes, NDArray[np.int64]]:
        """Write the masks with their classes; return their digest and the number of pixels of each class."""
        new = np.full(256, IGNORED, np.uint8)
        for value, number in self._numbers.items():
            new[number] = classes.of_value[value]
        hasher, counts = hashlib.sha256(), np.zeros(256, np.int64)
        with open(self.path, "rb") as before, open(self.numbered, "wb") as after:
            before.seek(header)
            after.write(b"\0" * header)
            while chunk := before.read(_CHUNK):
                block = new[np.frombuffer(chunk, np.uint8)]
                counts += np.bincount(block, minlength=256)
                hasher.update(block.tobytes())
                after.write(block.tobytes())
            after.flush()
            os.fsync(after.fileno())
        return hasher.digest(), counts[: len(classes.names)]


def _label_sets(sets: list[list[str]], tables: TargetTables) -> tuple[str, ...]:
    """Add the tables of label sets; return the names of the labels."""
    names = tuple(sorted({name for labels in sets for name in labels}, key=natural_order))
    if not names:
        raise DataError("No image has a label in its set of labels: check the column that label_sets names.")
    numbers = {name: number for number, name in enumerate(names)}
    tables.tensors["set_ends"] = _ends(sets)
    tables.tensors["set_labels"] = np.array([numbers[name] for labels in sets for name in labels], np.int32)
    bare = sum(not labels for labels in sets)
    tables.understood["Label sets"] = f"{len(names):,} labels, {len(tables.tensors['set_labels']):,} times"
    if bare:
        tables.notes.append(f"{bare:,} images have none of the labels in their set.")
    return names


def _boxes(
    boxes: list[list[Any]], names: Sequence[str], of_masks: MaskClasses | None, tables: TargetTables
) -> tuple[str, ...]:
    """Add the tables of boxes; return the names of their classes.

    boxes: of each image, how many were lost, then boxes with a name, or a value of masks.
    """
    lost = sum(first for first, *_ in boxes)
    kept = [[Box(*box) for box in rest] for _, *rest in boxes]
    if of_masks is not None and any(isinstance(box.name, int) for own in kept for box in own):
        named = {v: of_masks.names[n] for v, n in of_masks.of_value.items() if n != IGNORED}
        kept = [[box._replace(name=named[box.name]) for box in own if box.name in named] for own in kept]
        names = [named[value] for value in sorted(named) if value > 0]
    there = {str(box.name) for own in kept for box in own}
    if not there:
        raise DataError("No image has a box: check the annotations, and that they belong to these images.")
    known = tuple(dict.fromkeys(names))
    classes = (*known, *sorted(there - set(known), key=natural_order))
    numbers = {name: number for number, name in enumerate(classes)}
    flat = [box for own in kept for box in own]
    tables.tensors["box_ends"] = _ends(kept)
    tables.tensors["boxes"] = np.array([box[1:] for box in flat], np.float32).reshape(-1, 4)
    tables.tensors["box_labels"] = np.array([numbers[str(box.name)] for box in flat], np.int32)
    bare = sum(not own for own in kept)
    text = f"{len(flat):,} of {len(classes):,} classes in {len(kept) - bare:,} images"
    tables.understood["Boxes"] = text + (f", none in {bare:,}" if bare else "")
    if lost:
        tables.notes.append(f"{lost:,} boxes are empty or lie outside of what is left of their images.")
    return classes


def _ends(rows: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    """Return where each row begins and ends if all are joined, `[n + 1]`."""
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)
