"""The images that a model learns from and those that it must not see: the data's splits, or a new one."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data import cache
from danqing.data.dataset import Dataset
from danqing.data.layout import Declared
from danqing.data.manifest import read_manifest
from danqing.data.records import ImageSpec, Source
from danqing.data.shards.source import ShardSource
from danqing.data.shards.stream import Stream
from danqing.data.sources import find_source, open_dataset
from danqing.errors import DataError, MissingSplitError

HELD_OUT = 0.1
"""The share of the training images that is held out if the data has no validation split."""
_CHUNK = 1024


class Held(NamedTuple):
    """Training images, and others to evaluate on.

    `split` is the name of the latter.
    """

    training: Dataset
    judged: Dataset
    split: str


def hold_out(dataset: Dataset, fraction: float = HELD_OUT) -> tuple[Dataset, Dataset]:
    """Split a data set in two.

    Returns the training images, and the fraction that is held out.

    The choice depends only on the pixels of all images, not on their order or names: equal images are always
    on the same side. Of streamed images, at most 10,000 are held out, the same share of each shard, by the
    digests of their files. Raises DataError if either side would be empty.
    """
    if dataset.is_streamed and dataset.stream is not None:
        return _hold_out_of_shards(dataset, dataset.stream, fraction)
    keys = pixel_keys(dataset)
    count = round(len(dataset) * fraction)
    border = np.sort(keys)[count - 1] if count else np.uint64(0)
    held = keys <= border if count else np.zeros(len(keys), bool)
    if not 0 < held.sum() < len(dataset):
        raise DataError(
            f"{len(dataset)} images are too few to hold {fraction:.0%} of them out: add images, or learn "
            "without a held-out split."
        )
    sides = dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))
    if dataset.sources is None:
        return sides
    sources = hold_out(dataset.sources, fraction)
    return sides[0].beside(sources[0]), sides[1].beside(sources[1])


def _hold_out_of_shards(dataset: Dataset, stream: Stream, fraction: float) -> tuple[Dataset, Dataset]:
    """Split streamed images in two; those that are held out are packed, so that all of them can be read."""
    rest, held = stream.held_out(fraction)
    folder = cache.ensure(held, rest.spec, stream.cache_dir)
    info = dataset.info.model_copy(update={"report": read_manifest(folder).report})
    return Dataset(dataset.cache, dataset.info, stream=rest), Dataset(folder, info)


def open_if_there(source: str | Path, split: str, **options: Any) -> Dataset | None:
    """Open a split of a source, with the options of `open_dataset`.

    None if the data has no such split.
    """
    try:
        return open_dataset(source, split=split, **options)
    except MissingSplitError:
        return None


def open_alike(training: Dataset, source: str | Path, split: str, **options: Any) -> Dataset | None:
    """Open a split as the training images were opened.

    It gets their value range, their buckets and the classes of their targets. options: those that they were
    opened with. None if the data has no such split.
    """
    alike: dict[str, Any] = {"range": training.range}
    if options.get("buckets"):
        alike |= {"size": training.size, "buckets": training.sizes}
    if training.stream is not None and training.stream.codes is not None:
        alike |= {"size": training.size, "channels": training.channels}
    found = open_if_there(source, split, **{**options, **alike})
    return None if found is None else found.with_classes(training.target_classes)


def has_split(source: str | Path, split: str, pairs: str = "") -> bool:
    """Return whether a source has a split, without reading its images.

    pairs: as of `open_dataset`; folders of pairs may have splits below them.
    Raises DataError without data.
    """
    return _find(source, split, pairs) is not None


def has_two(source: str | Path, one: str, other: str, pairs: str = "") -> bool:
    """Return whether two splits of a source are different files.

    A single file may serve as both.
    """
    first, second = _find(source, one, pairs), _find(source, other, pairs)
    return first is not None and second is not None and first.key() != second.key()


def open_held(source: str | Path, fraction: float = HELD_OUT, **options: Any) -> Held:
    """Open the training images and the images to evaluate on.

    The latter are the validation split, or a part of the training split that is held out.

    A test split is never used here: the images that choose a model cannot also judge it. Raises DataError.
    """
    training = open_dataset(source, split="train", **options)
    validation = open_alike(training, source, "validation", **options)
    if validation is not None:
        return Held(training, validation, "validation")
    return Held(*hold_out(training, fraction), "held-out")


def _find(source: str | Path, split: str, pairs: str) -> Source | None:
    try:
        found, _ = find_source(source, split, declared=Declared(pairs))
        if isinstance(found, ShardSource):  # whose table says so
            return found
        return next((found for _ in found.records(ImageSpec())), None)  # a folder looks when it is asked
    except MissingSplitError:
        return None


def pixel_keys(dataset: Dataset) -> NDArray[np.uint64]:
    """Return a uniform number for each image, derived from its pixels, `[n]`."""
    keys = np.empty(len(dataset), np.uint64)
    for start in range(0, len(dataset), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(dataset)))
        for row, pixels in zip(rows, dataset.images(rows).numpy(), strict=True):
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=8, person=b"danqing-split").digest()
            keys[row] = int.from_bytes(digest, "big")
    return keys
