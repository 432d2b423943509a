"""A data set in its cache: images by vectorised gathers from a memory map whose pages are let go again."""

import functools
import json
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.cache import Manifest, read_manifest
from danqing.data.records import DatasetInfo, digest
from danqing.errors import DataError

Indices = NDArray[np.int64] | Tensor | Sequence[int]

_PAGES_PER_IMAGE = 16
"""The kernel maps this many pages around one that is touched."""
_RESIDENT_BYTES = 8 * 2**20
"""Mapped pages are handed back after about this many bytes have been touched."""


class Dataset:
    """Images of one size, uint8, with what is known of each; indices run from 0 to len - 1.

    `labels` are int64 `[n]`, indices into `label_names`, -1 where an image has none. `fingerprint` is a
    sha256 in hexadecimal of the contents and the options they were read with: it tells whether two runs saw
    the same data.
    """

    def __init__(self, cache: Path, info: DatasetInfo, rows: NDArray[np.int64] | None = None) -> None:
        self.cache, self.info = cache, info
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

    def __len__(self) -> int:
        return self._manifest.shape[0] if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        width, height = self.size
        return f"Dataset({self.info.name!r}, {len(self)} images of {width}x{height}x{self.channels})"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._manifest.shape[2], self._manifest.shape[1]

    @property
    def channels(self) -> int:
        """1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
        return self._manifest.shape[3]

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self._manifest.shape[1:]))

    def images(self, indices: Indices) -> Tensor:
        """The images at `indices`, uint8 `[n, h, w, c]`."""
        return torch.from_numpy(self._store.images(self._places(indices)))

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Every image's label, int64 `[n]`, -1 for none; None where the data has no labels."""
        return self.labels_at(np.arange(len(self))) if self._names else None

    def labels_at(self, indices: Indices) -> NDArray[np.int64]:
        """The labels of the images at `indices`, int64 `[n]`, -1 for none."""
        labels = self._store.labels[self._places(indices)]
        renamed: NDArray[np.int64] = self._renamed[labels]
        return renamed

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label is called; empty where the data has no labels."""
        return self._names

    @functools.cached_property
    def label_frequencies(self) -> tuple[float, ...]:
        """The share of the labelled images that each label has; they add up to 1."""
        if self._rows is None:
            return self._manifest.label_frequencies
        labels = self.labels
        if labels is None:
            return ()
        counts = np.bincount(labels[labels >= 0], minlength=len(self._names))
        return tuple(float(share) for share in counts / max(1, counts.sum()))

    @property
    def has_texts(self) -> bool:
        """Whether images have captions."""
        return self._manifest.has_texts

    def texts(self, indices: Indices) -> tuple[str, ...] | None:
        """The captions of the images at `indices`, empty where one has none; None where the data has none."""
        return self._store.texts(self._places(indices)) if self.has_texts else None

    def subset(self, chosen: Indices | Sequence[str]) -> "Dataset":
        """The images at some indices, in that order, or those with some labels, by name; raises DataError."""
        by_name = len(chosen) > 0 and isinstance(chosen[0], str)
        indices = self._with_labels(cast(Sequence[str], chosen)) if by_name else cast(Indices, chosen)
        places = self._places(indices)
        if len(places) == 0:
            raise DataError(f"No image of {self.info.name} was chosen: name at least one.")
        return Dataset(self.cache, self.info, places)

    def _with_labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        wanted = []
        for name in names:
            if name not in self._names:
                choice = (
                    f"its labels are {', '.join(self._names[:20])}" if self._names else "it has no labels"
                )
                raise DataError(f"{self.info.name} has no label {name!r}: {choice}.")
            wanted.append(self._names.index(name))
        return np.flatnonzero(np.isin(self.labels_at(np.arange(len(self))), wanted))

    def _narrow_labels(self) -> None:
        """Keep the label names that a subset still has, in their order."""
        present = np.unique(self._store.labels[self._rows])
        kept = [place for place in range(len(self._manifest.label_names)) if place in present]
        kept = kept if len(kept) > 1 else []
        self._names = tuple(self._manifest.label_names[place] for place in kept)
        self._renamed[:] = -1
        self._renamed[kept] = np.arange(len(kept))

    @functools.cached_property
    def _renamed(self) -> NDArray[np.int64]:
        """From labels in the cache to labels here; the last place, reached as -1, stays -1."""
        return np.append(np.arange(len(self._manifest.label_names)), -1)

    def _places(self, indices: Indices) -> NDArray[np.int64]:
        wanted = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices, np.int64)
        wanted = wanted.astype(np.int64, copy=False)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"indices must lie in [0, {len(self)})")
        return wanted if self._rows is None else self._rows[wanted].astype(np.int64, copy=False)


class _Store:
    """The memory-mapped files of one cache."""

    def __init__(self, cache: Path, manifest: Manifest) -> None:
        self._images_map = _Mapped(cache / "images.safetensors")
        self._images = self._images_map.tensors()["images"]
        if self._images.shape != manifest.shape:
            raise DataError(f"The cache {cache} is damaged: delete that folder, and it is built anew.")
        self._records_map = _Mapped(cache / "records.safetensors")
        tensors = self._records_map.tensors()
        self.labels = np.array(tensors["labels"])
        self._ends, self._texts = tensors["text_ends"], tensors["texts"]
        self._touch = max(self._images[:1].nbytes, 4096 * _PAGES_PER_IMAGE)

    def images(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        chosen: NDArray[np.uint8] = self._images[places]
        self._images_map.touched(len(places) * self._touch)
        return chosen

    def texts(self, places: NDArray[np.int64]) -> tuple[str, ...]:
        ends = self._ends[places]
        starts = np.where(places > 0, self._ends[places - 1], 0)
        texts = tuple(
            self._texts[start:end].tobytes().decode() for start, end in zip(starts, ends, strict=True)
        )
        self._records_map.touched(len(places) * 2 * 4096 * _PAGES_PER_IMAGE)
        return texts


class _Mapped:
    """A safetensors file in memory only where it is being read.

    Pages of a mapping count as this process's memory, and a shuffled epoch touches all of them; handing them
    back costs a little (they stay in the system's file cache) and keeps memory flat however large the data
    is.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._resident = 0

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Views of the file's tensors, nothing copied."""
        (length,) = struct.unpack_from("<Q", self._map)
        types = {"U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
        result: dict[str, NDArray[Any]] = {}
        for name, entry in json.loads(self._map[8 : 8 + length]).items():
            if name != "__metadata__":
                start = entry["data_offsets"][0]
                count = int(np.prod(entry["shape"]))
                values = np.frombuffer(self._map, types[entry["dtype"]], count, 8 + length + start)
                result[name] = values.reshape(entry["shape"])
        return result

    def touched(self, count: int) -> None:
        """Told of reads of about `count` bytes, hand pages back now and then."""
        self._resident += count
        if self._resident > _RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._resident = 0
