"""The images and records in the files of a cache, by their place."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danqing.data.manifest import Manifest
from danqing.data.tensor_file import TensorFile
from danqing.errors import DataError


class StoredRecords:
    """The files of one cache; only the labels are held in memory."""

    def __init__(self, cache: Path, manifest: Manifest) -> None:
        self._images = TensorFile(cache / "images.safetensors")
        self._records = TensorFile(cache / "records.safetensors")
        count, height, width, channels = manifest.shape
        shape = (height, width, channels)
        stored: tuple[int, ...] = (count, 2, *shape) if manifest.pairs else manifest.shape
        if manifest.buckets:
            stored = (count, manifest.image_bytes * 8 // manifest.depth)
        if self._images.shape("images") != stored:
            raise DataError(f"The cache {cache} is damaged: delete that folder, and it is built again.")
        labels = self._records.rows("labels", np.arange(count))
        self._labels = labels.view(f"i{labels.shape[1]}")[:, 0]
        self._buckets = np.broadcast_to(np.uint8(0), count)
        if manifest.buckets:
            self._buckets = self._records.rows("buckets", np.arange(count))[:, 0]
        sizes = manifest.buckets or ((width, height),)
        self._pairs, self._has_attributes = manifest.pairs, bool(manifest.attributes)
        self._shapes = [(high, wide, channels) for wide, high in sizes]
        self._dtype = np.dtype("<u2" if manifest.depth == 16 else "u1")

    def images(
        self, places: NDArray[np.int64], *, side: int = 0, bucket: int = 0
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Read the images at some positions, which are all in one bucket.

        side: 1 reads the source images of pairs.
        """
        values, shape = self._images.rows("images", places).view(self._dtype), self._shapes[bucket]
        if self._pairs:
            return np.ascontiguousarray(values.reshape(len(places), 2, *shape)[:, side])
        return np.ascontiguousarray(values[:, : math.prod(shape)]).reshape(len(places), *shape)

    def labels_at(self, places: NDArray[np.int64]) -> NDArray[np.integer]:
        """Return the labels at some positions, `[n]`."""
        labels: NDArray[np.integer] = self._labels[places]
        return labels

    def buckets_at(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the buckets at some positions, `[n]`."""
        buckets: NDArray[np.uint8] = self._buckets[places]
        return buckets

    def attributes(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the attributes at some positions, `[n, attributes]`."""
        if not self._has_attributes:
            return np.zeros((len(places), 0), np.float32)
        return self._records.rows("attributes", places).view("<f4").reshape(len(places), -1)

    def texts(self, places: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the texts at some positions."""
        ends = self._records.rows("text_ends", np.stack([places, places + 1], axis=1).ravel())
        spans = ends.view("<i8").reshape(-1, 2).tolist()
        return tuple(self._records.part("texts", start, end).decode() for start, end in spans)
