"""A data set in its cache: images by index, read from the file on demand."""

import functools
import json
import math
import struct
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.attributes import Attribute, Example
from danqing.data.captions import captions_of
from danqing.data.manifest import Manifest, read_manifest
from danqing.data.records import DatasetInfo, digest
from danqing.errors import DataError
from danqing.images import conform
from danqing.names import match

_TEXTS_AT_ONCE = 10_000

Indices = NDArray[np.int64] | Tensor | Sequence[int]


class Dataset:
    """Images with their labels, captions and attributes.

    Indices run from 0 to len - 1. All images have one size, or, if they were read with buckets, one of a few
    sizes of about the same area. `images` then gives all of them at `size`, which is the most frequent one;
    `full_depth` gives those of one bucket at its own size.

    `labels` are int64 `[n]`, indices into `label_names`, -1 if an image has none. `fingerprint` is a
    sha256 in hexadecimal of the contents and the options that they were read with: it shows whether two runs
    used the same data. `sources` are the images of another domain that a model turns into images like these,
    of any number; None if there is no such domain.
    """

    def __init__(
        self,
        cache: Path,
        info: DatasetInfo,
        rows: NDArray[np.int64] | None = None,
        sources: "Dataset | None" = None,
    ) -> None:
        self.cache, self.info, self.sources = cache, info, sources
        self._manifest = read_manifest(cache)
        self._store = _Store(cache, self._manifest)
        self._rows: NDArray[np.integer] | None = None
        self._names = self._manifest.label_names
        if rows is not None:
            self._rows = rows.astype(np.int32 if self._manifest.shape[0] < 2**31 else np.int64)
        self.fingerprint = self._manifest.fingerprint
        if self._rows is not None:
            self.fingerprint = digest(self.fingerprint, self._rows.astype("<i8").tobytes())
            self._narrow_labels()
        if sources is not None:
            self.fingerprint = digest(self.fingerprint, sources.fingerprint)

    def __len__(self) -> int:
        return self._manifest.shape[0] if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        width, height = self.size
        others = f" and {len(self.sizes) - 1} other sizes" if len(self.sizes) > 1 else ""
        return f"Dataset({self.info.name!r}, {len(self)} images of {width}x{height}x{self.channels}{others})"

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height), of the first bucket if there are several."""
        return self._manifest.shape[2], self._manifest.shape[1]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the (width, height) of each bucket; without buckets, `size` alone."""
        return self._manifest.buckets or (self.size,)

    def buckets_at(self, indices: Indices) -> NDArray[np.int64]:
        """Return the bucket of each image at `indices`, int64 `[n]`.

        It is a place in `sizes`.
        """
        return self._store.buckets[self._places(indices)].astype(np.int64)

    @property
    def channels(self) -> int:
        """Return the number of channels.

        1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        """
        return self._manifest.shape[3]

    @property
    def depth(self) -> int:
        """Return the bits of a value.

        8, or 16 if the source has more than 8.
        """
        return self._manifest.depth

    @property
    def range(self) -> tuple[float, float] | None:
        """Return the (low, high) that became black and white.

        None for images of 8 bits.
        """
        return self._manifest.range

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one image."""
        return self._manifest.image_bytes

    def images(self, indices: Indices) -> Tensor:
        """Return the images at `indices` at `size`, uint8 `[n, h, w, c]`.

        Deeper values are rounded. Images of other buckets are resized and cropped.
        """
        places = self._places(indices)
        buckets = self._store.buckets[places]
        if not buckets.any():
            return torch.from_numpy(_eight_bits(self._store.images(places)))
        width, height = self.size
        result = np.empty((len(places), height, width, self.channels), np.uint8)
        for bucket in np.unique(buckets):
            (rows,) = np.nonzero(buckets == bucket)
            pixels = _eight_bits(self._store.images(places[rows], bucket=int(bucket)))
            for row, one in zip(rows, pixels, strict=True):
                result[row] = conform(one, size=self.size, channels=self.channels, alpha="keep")
        return torch.from_numpy(result)

    def full_depth(self, indices: Indices) -> Tensor:
        """Return the images at `indices` at their own depth and size.

        They are uint8 or uint16 `[n, h, w, c]`. Raises DataError for images of several buckets.
        """
        places = self._places(indices)
        found = np.unique(self._store.buckets[places])
        if len(found) > 1:
            raise DataError(
                f"These images have {len(found)} sizes: read those of one bucket at a time (buckets_at), or "
                "all at one size with images()."
            )
        return torch.from_numpy(self._store.images(places, bucket=int(found[0]) if len(found) else 0))

    @property
    def has_pairs(self) -> bool:
        """Return whether each image has a source image."""
        return self._manifest.pairs

    @property
    def has_sources(self) -> bool:
        """Return whether there are source images, of pairs or of another domain."""
        return self.has_pairs or self.sources is not None

    def source_images(self, indices: Indices) -> Tensor:
        """Return the source images of pairs, uint8 `[n, h, w, c]`.

        Those of another domain are spread evenly over the images, and do not belong to them.
        Raises DataError if there are none.
        """
        if self.sources is not None:
            wanted = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices, np.int64)
            return self.sources.images(wanted * len(self.sources) // len(self))
        if not self.has_pairs:
            raise DataError(f"{self.info.name} holds no pairs: declare them with pairs=...")
        return torch.from_numpy(_eight_bits(self._store.images(self._places(indices), side=1)))

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Return the declared attribute columns.

        Their widths add up to that of the table.
        """
        return self._manifest.attributes

    def attributes_at(self, indices: Indices) -> NDArray[np.float32]:
        """Return the attributes at `indices`, float32 `[n, sum of widths]`, NaN for missing values."""
        return self._store.attributes(self._places(indices))

    def attribute_examples(self, most: int) -> tuple[Example, ...]:
        """Return attributes and labels of at most `most` evenly spaced images."""
        places = np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64)
        rows, labels = self.attributes_at(places).tolist(), self.labels_at(places).tolist()
        return tuple(
            Example(label=label, values=tuple(None if math.isnan(v) else float(f"{v:.6g}") for v in row))
            for row, label in zip(rows, labels, strict=True)
        )

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Return all labels, int64 `[n]`, -1 for none.

        None if the data has no labels.
        """
        return self.labels_at(np.arange(len(self))) if self._names else None

    def labels_at(self, indices: Indices) -> NDArray[np.int64]:
        """Return the labels at `indices`, int64 `[n]`, -1 for none."""
        labels = self._store.labels[self._places(indices)]
        renamed: NDArray[np.int64] = self._renamed[labels]
        return renamed

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the names of the labels; empty if the data has none."""
        return self._names

    @functools.cached_property
    def label_frequencies(self) -> tuple[float, ...]:
        """Return each label's share of the labelled images.

        They add up to 1.
        """
        if self._rows is None:
            return self._manifest.label_frequencies
        labels = self.labels
        if labels is None:
            return ()
        counts = np.bincount(labels[labels >= 0], minlength=len(self._names))
        return tuple(float(share) for share in counts / max(1, counts.sum()))

    @functools.cached_property
    def label_captions(self) -> tuple[str, ...]:
        """Return the captions that all images of each label share.

        One per line, empty if there are none.
        """
        labels = self.labels
        if labels is None or not self.has_texts:
            return ()
        shared: dict[int, list[str]] = {}
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            places = np.arange(start, min(start + _TEXTS_AT_ONCE, len(self)))
            for label, text in zip(labels[places].tolist(), self.texts(places) or (), strict=True):
                lines = captions_of(text)
                shared[label] = [line for line in shared.get(label, lines) if line in lines]
        captions = tuple("\n".join(shared.get(label, ())) for label in range(len(self._names)))
        return captions if any(captions) else ()

    @property
    def has_texts(self) -> bool:
        """Return whether images have captions."""
        return self._manifest.has_texts

    def texts(self, indices: Indices) -> tuple[str, ...] | None:
        """Return the captions at `indices`, empty for an image without any.

        None if the data has none.
        """
        return self._store.texts(self._places(indices)) if self.has_texts else None

    def subset(self, chosen: Indices | Sequence[str]) -> "Dataset":
        """Select images by index, in that order, or by label name.

        Raises DataError.
        """
        by_name = len(chosen) > 0 and isinstance(chosen[0], str)
        indices = self._with_labels(cast(Sequence[str], chosen)) if by_name else cast(Indices, chosen)
        places = self._places(indices)
        if len(places) == 0:
            raise DataError(f"No image of {self.info.name} was chosen: name at least one.")
        return Dataset(self.cache, self.info, places, self.sources)

    def beside(self, sources: "Dataset | None") -> "Dataset":
        """Return the same images beside the source images of another domain.

        None is no source images.
        """
        return Dataset(self.cache, self.info, self._places(np.arange(len(self))), sources)

    def _with_labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        wanted = []
        for name in names:
            found = match(name, self._names)
            if found is None:
                known = ", ".join(self._names[:20])
                choice = f"its labels are {known}" if known else "it has no labels"
                raise DataError(f"{self.info.name} has no label {name!r}: {choice}.")
            wanted.append(self._names.index(found))
        return np.flatnonzero(np.isin(self.labels_at(np.arange(len(self))), wanted))

    def _narrow_labels(self) -> None:
        """Keep the label names that occur in a subset, in their order."""
        present = np.unique(self._store.labels[self._rows])
        kept = [place for place in range(len(self._manifest.label_names)) if place in present]
        kept = kept if len(kept) > 1 else []
        self._names = tuple(self._manifest.label_names[place] for place in kept)
        self._renamed[:] = -1
        self._renamed[kept] = np.arange(len(kept))

    @functools.cached_property
    def _renamed(self) -> NDArray[np.int64]:
        """Return a table from cache labels to these labels; its last entry, reached by -1, stays -1."""
        return np.append(np.arange(len(self._manifest.label_names)), -1)

    def _places(self, indices: Indices) -> NDArray[np.int64]:
        wanted = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices, np.int64)
        wanted = wanted.astype(np.int64, copy=False)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"indices must lie in [0, {len(self)})")
        return wanted if self._rows is None else self._rows[wanted].astype(np.int64, copy=False)


def _eight_bits(values: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint8, copy=False)


class _Store:
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
        self.labels = labels.view(f"i{labels.shape[1]}")[:, 0]
        self.buckets = np.broadcast_to(np.uint8(0), count)
        if manifest.buckets:
            self.buckets = self._records.rows("buckets", np.arange(count))[:, 0]
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

    def attributes(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        if not self._has_attributes:
            return np.zeros((len(places), 0), np.float32)
        return self._records.rows("attributes", places).view("<f4").reshape(len(places), -1)

    def texts(self, places: NDArray[np.int64]) -> tuple[str, ...]:
        ends = self._records.rows("text_ends", np.stack([places, places + 1], axis=1).ravel())
        spans = ends.view("<i8").reshape(-1, 2).tolist()
        return tuple(self._records.part("texts", start, end).decode() for start, end in spans)


class TensorFile:
    """A safetensors file that is read at offsets, not mapped into memory.

    A mapped page counts as this process's memory, a shuffled epoch touches all pages, and a kernel may map 2
    MiB around each. Reading at an offset is as fast, and memory does not grow with the data.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        (length,) = struct.unpack("<Q", self._read(0, 8))
        self._start = 8 + length
        self._layout: dict[str, dict[str, Any]] = json.loads(self._read(8, length))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._layout[name]["shape"])

    def dtype(self, name: str) -> str:
        """Return the number format of a tensor, as safetensors calls it."""
        return str(self._layout[name]["dtype"])

    def rows(self, name: str, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read some rows of a tensor as bytes, `[len(places), bytes per row]`."""
        start, end = self._layout[name]["data_offsets"]
        length = (end - start) // max(1, self.shape(name)[0])
        result = np.empty((len(places), length), np.uint8)
        if len(places) > 1 and (np.diff(places) == 1).all():
            self._read_into(self._start + start + int(places[0]) * length, result.data.cast("B"))
            return result
        offsets = (places * length + (self._start + start)).tolist()
        with self._lock:
            seek, read_into = self._file.seek, self._file.readinto
            for row, offset in zip(result, offsets, strict=True):
                seek(offset)
                if read_into(row) != length:
                    raise DataError(
                        f"{self._file.name} ends too early: delete its folder, and it is built again."
                    )
        return result

    def part(self, name: str, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end` of a tensor."""
        return self._read(self._start + self._layout[name]["data_offsets"][0] + start, end - start)

    def _read(self, offset: int, length: int) -> bytes:
        result = bytearray(length)
        self._read_into(offset, memoryview(result))
        return bytes(result)

    def _read_into(self, offset: int, target: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            done = 0
            while done < len(target):  # one call reads 2 GiB at most
                count = self._file.readinto(target[done:])
                if not count:
                    raise DataError(
                        f"{self._file.name} ends too early: delete its folder, and it is built again."
                    )
                done += count
