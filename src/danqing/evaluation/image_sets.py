"""Sets of images, batch by batch: how many at once, which rows, and their labels under other names."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.evaluation.contract import ImageSet
from danqing.evaluation.resize import images_at_once
from danqing.randomness import generator

_LARGEST_BATCH = 256


def batch_size_for(size: tuple[int, int], least: int = 1) -> int:
    """Return how many images to hold in memory at once.

    size: width and height; of large images there are fewer.
    least: the result is at least this, such as the number that a model treats at once.
    """
    return max(least, min(_LARGEST_BATCH, images_at_once(size)))


def index_batches(n: int, size: int = _LARGEST_BATCH) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers from 0 to n - 1, `size` at a time."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def labels_of(images: ImageSet) -> NDArray[np.int64]:
    """Return the label of every image, `[n]`."""
    return images.labels_at(np.arange(len(images)))


def map_labels(
    images: ImageSet, names: Sequence[str], rows: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the label of every image as an index into `names`, `[n]`.

    rows: of some images only.
    A label that is not among `names` becomes -1.
    """
    places = {name: place for place, name in enumerate(names)}
    table = np.array([*(places.get(name, -1) for name in images.label_names), -1], np.int64)
    mapped: NDArray[np.int64] = table[labels_of(images) if rows is None else images.labels_at(rows)]
    return mapped


def spread_evenly(count: int, n: int) -> NDArray[np.int64]:
    """Return `n` indices below `count`, spread evenly.

    With n < count they are evenly spaced; otherwise each occurs about equally often.
    """
    return np.arange(n) * count // n if n < count else np.arange(n) % count


def draw_rows(count: int, most: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Draw at most `most` of `count` rows by the seed; returns them in ascending order."""
    rng = generator(seed, purpose)
    return np.sort(torch.randperm(count, generator=rng)[:most].numpy())
