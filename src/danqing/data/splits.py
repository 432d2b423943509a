"""What a model may learn from and what it must never see: the data's own splits, or one made here."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data.dataset import Dataset
from danqing.data.records import ImageSpec, Source
from danqing.data.sources import find_source, open_dataset
from danqing.errors import DataError, MissingSplitError

HELD_OUT = 0.1
"""The share of the training images that is held out where the data has no validation split."""
_CHUNK = 1024


class Held(NamedTuple):
    """Images to learn from, and others to judge by; `split` is what the latter are called."""

    training: Dataset
    judged: Dataset
    split: str


def hold_out(dataset: Dataset, fraction: float = HELD_OUT) -> tuple[Dataset, Dataset]:
    """A data set in two: what may be learnt from, and the given fraction of it, held out.

    Which images are held out follows from the pixels of all of them, and not from their order or names: equal
    images, whatever they are called, lie on the same side. Raises DataError where either side would be empty.
    """
    keys = _pixel_keys(dataset)
    count = round(len(dataset) * fraction)
    border = np.sort(keys)[count - 1] if count else np.uint64(0)
    held = keys <= border if count else np.zeros(len(keys), bool)
    if not 0 < held.sum() < len(dataset):
        raise DataError(
            f"{len(dataset)} images are too few to hold {fraction:.0%} of them out: add images, or learn "
            "without a held-out split."
        )
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def open_if_there(source: str | Path, split: str, **options: Any) -> Dataset | None:
    """A split of a source, with the options of `open_dataset`; None where the data has no such split."""
    try:
        return open_dataset(source, split=split, **options)
    except MissingSplitError:
        return None


def has_split(source: str | Path, split: str) -> bool:
    """Whether a source has a split, without reading its pictures; raises DataError where there is no data."""
    return _find(source, split) is not None


def has_two(source: str | Path, one: str, other: str) -> bool:
    """Whether a source has two splits that are not the same files: one file is all for training, and may be
    called a test split besides.
    """
    first, second = _find(source, one), _find(source, other)
    return first is not None and second is not None and first.key() != second.key()


def open_held(source: str | Path, fraction: float = HELD_OUT, **options: Any) -> Held:
    """The training split with the validation split, or with a part of itself that it is then left without.

    A test split is never touched here: what chooses a model cannot also judge it. Raises DataError.
    """
    training = open_dataset(source, split="train", **options)
    validation = open_if_there(source, "validation", **{**options, "range": training.range})
    if validation is not None:
        return Held(training, validation, "validation")
    return Held(*hold_out(training, fraction), "held-out")


def _find(source: str | Path, split: str) -> Source | None:
    try:
        found, _ = find_source(source, split)
        return next((found for _ in found.records(ImageSpec())), None)  # a folder looks when it is asked
    except MissingSplitError:
        return None


def _pixel_keys(dataset: Dataset) -> NDArray[np.uint64]:
    """A uniform number for each image that follows from its pixels, `[n]`."""
    keys = np.empty(len(dataset), np.uint64)
    for start in range(0, len(dataset), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(dataset)))
        for row, pixels in zip(rows, dataset.images(rows).numpy(), strict=True):
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=8, person=b"danqing-split").digest()
            keys[row] = int.from_bytes(digest, "big")
    return keys
