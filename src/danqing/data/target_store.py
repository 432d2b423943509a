"""The targets of a cache by position, with the classes of that cache or of other data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.targets import IGNORED, TargetClasses, Targets
from danqing.data.tensor_file import TensorFile


class TargetStore:
    """The targets of the images in a cache.

    own: the classes of the cache. classes: those that targets are given in, by their names. What has none of
    them is left out: boxes and labels do not appear, and pixels are ignored.
    """

    def __init__(self, cache: Path, own: TargetClasses, classes: TargetClasses) -> None:
        self._records = TensorFile(cache / "records.safetensors")
        self._masks = TensorFile(cache / "masks.safetensors") if own.mask else None
        self._own, self._classes = own, classes
        self._new_labels = _renumbered(own.label_set, classes.label_set)
        self._new_boxes = _renumbered(own.boxes, classes.boxes)
        self._new_masks = np.full(256, IGNORED, np.uint8)
        new = _renumbered(own.mask, classes.mask)
        self._new_masks[: len(new)] = np.where(new < 0, IGNORED, new)

    def targets(self, places: NDArray[np.int64]) -> Targets:
        """Return the targets of the images at some positions."""
        boxes, box_labels = self._boxes(places) if self._own.boxes else (None, None)
        return Targets(
            self._label_sets(places) if self._own.label_set else None, boxes, box_labels, self._mask(places)
        )

    def _label_sets(self, places: NDArray[np.int64]) -> Tensor:
        result = torch.zeros(len(places), len(self._classes.label_set))
        for row, labels in enumerate(self._rows("set_ends", places, "set_labels", "<i4")):
            new = self._new_labels[labels]
            result[row, new[new >= 0]] = 1
        return result

    def _boxes(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        labels = [self._new_boxes[one] for one in self._rows("box_ends", places, "box_labels", "<i4")]
        sides = [one.reshape(-1, 4) for one in self._rows("box_ends", places, "boxes", "<f4", 4)]
        known = [one >= 0 for one in labels]
        most = max((int(one.sum()) for one in known), default=0)
        boxes, box_labels = torch.zeros(len(places), most, 4), torch.full((len(places), most), -1)
        for row, kept in enumerate(known):
            count = int(kept.sum())
            boxes[row, :count] = torch.from_numpy(sides[row][kept])
            box_labels[row, :count] = torch.from_numpy(labels[row][kept])
        return boxes, box_labels

    def _mask(self, places: NDArray[np.int64]) -> Tensor | None:
        if self._masks is None:
            return None
        shape = self._masks.shape("masks")[1:]
        values = self._masks.rows("masks", places).reshape(len(places), *shape)
        return torch.from_numpy(self._new_masks[values])

    def _rows(
        self, ends: str, places: NDArray[np.int64], name: str, dtype: str, width: int = 1
    ) -> list[NDArray[Any]]:
        """Return the values of each of some images, of as many as each has."""
        borders = self._records.rows(ends, np.stack([places, places + 1], axis=1).ravel())
        length = width * np.dtype(dtype).itemsize
        spans = borders.view("<i8").reshape(-1, 2).tolist()
        return [
            np.frombuffer(self._records.part(name, start * length, end * length), dtype)
            for start, end in spans
        ]


def _renumbered(own: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each class among other names, -1 for one that is not among them."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers.get(name, -1) for name in own], np.int64)
