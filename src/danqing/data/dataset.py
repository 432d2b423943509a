"""A data set in its cache: images by index, read from the file on demand."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.attributes import Attribute, Example
from danqing.data.captions import captions_of
from danqing.data.manifest import read_manifest
from danqing.data.order import BucketOrder, Order, ShuffledOrder
from danqing.data.records import DatasetInfo, digest
from danqing.data.shards.stream import Stream
from danqing.data.stored_records import StoredRecords
from danqing.data.target_store import TargetStore
from danqing.data.targets import TargetClasses, Targets
from danqing.errors import DataError
from danqing.images import conform, eight_bits
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
    of any number; None if there is no such domain. `target_classes` are the classes of the targets, by
    default those that the data has. `stream` reads the images from shards; None if they are in a cache.
    """

    def __init__(
        self,
        cache: Path,
        info: DatasetInfo,
        rows: NDArray[np.integer] | None = None,
        sources: "Dataset | None" = None,
        target_classes: TargetClasses | None = None,
        *,
        stream: Stream | None = None,
    ) -> None:
        self.cache, self.info, self.sources, self.stream = cache, info, sources, stream
        self._manifest = read_manifest(cache) if stream is None else stream.manifest
        self.target_classes = target_classes or self._manifest.targets
        self._store: StoredRecords | Stream = stream or StoredRecords(cache, self._manifest)
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
        if self.target_classes != self._manifest.targets:
            self.fingerprint = digest(self.fingerprint, self.target_classes.model_dump_json())

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
        return self._store.buckets_at(self._places(indices)).astype(np.int64)

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
        buckets = self._store.buckets_at(places)
        if not buckets.any():
            return torch.from_numpy(eight_bits(self._store.images(places)))
        width, height = self.size
        result = np.empty((len(places), height, width, self.channels), np.uint8)
        for bucket in np.unique(buckets):
            (rows,) = np.nonzero(buckets == bucket)
            pixels = eight_bits(self._store.images(places[rows], bucket=int(bucket)))
            for row, one in zip(rows, pixels, strict=True):
                result[row] = conform(one, size=self.size, channels=self.channels, alpha="keep")
        return torch.from_numpy(result)

    def full_depth(self, indices: Indices) -> Tensor:
        """Return the images at `indices` at their own depth and size.

        They are uint8 or uint16 `[n, h, w, c]`. Raises DataError for images of several buckets.
        """
        places = self._places(indices)
        found = np.unique(self._store.buckets_at(places))
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
            raise DataError(f"{self.info.name} holds no pairs: declare them when you open it.")
        return torch.from_numpy(eight_bits(self._store.images(self._places(indices), side=1)))

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
        labels = self._store.labels_at(self._places(indices))
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
    def label_counts(self) -> NDArray[np.int64]:
        """Return the number of images of each label, int64 `[labels + 1]`.

        The last number is that of images without a label.

        If the images are streamed, those that are held out of them are counted too.
        """
        if self.is_streamed and self.stream is not None:
            return self.stream.label_counts
        labels = self.labels_at(np.arange(len(self)))
        return np.bincount(np.where(labels < 0, len(self._names), labels), minlength=len(self._names) + 1)

    @functools.cached_property
    def label_captions(self) -> tuple[str, ...]:
        """Return the captions that all images of each label share.

        One per line, empty if there are none.
        """
        if not self._names or not self.has_texts:
            return ()
        shared: dict[int, list[str]] = {}
        rows = self.surveyed_rows()
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            places = rows[start : start + _TEXTS_AT_ONCE]
            labels = self.labels_at(places).tolist()
            for label, text in zip(labels, self.texts(places) or (), strict=True):
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
        """Select images by index, by a mask, or by label name.

        Indices keep their order; a mask has a boolean for each image. Raises DataError.
        """
        by_name = len(chosen) > 0 and isinstance(chosen[0], str)
        indices = self._with_labels(cast(Sequence[str], chosen)) if by_name else cast(Indices, chosen)
        places = self._places(indices)
        if len(places) == 0:
            raise DataError(f"No image of {self.info.name} was chosen: name at least one.")
        return self._like(self.info, places, self.sources, self.target_classes)

    def beside(self, sources: "Dataset | None") -> "Dataset":
        """Return the same images beside the source images of another domain.

        None is no source images.
        """
        places = self._places(np.arange(len(self)))
        return self._like(self.info, places, sources, self.target_classes)

    @property
    def has_targets(self) -> bool:
        """Return whether images have targets besides labels: label sets, boxes or masks."""
        return bool(self._manifest.targets)

    def targets_at(self, indices: Indices) -> Targets:
        """Return the targets at `indices`, None for what the data lacks.

        Boxes are padded to as many as the image with most of them has. Masks and boxes fit the images at
        `size`.
        """
        return self._targets.targets(self._places(indices))

    def with_classes(self, classes: TargetClasses) -> "Dataset":
        """Return the same images with the classes of other data.

        Classes are found by their names. Boxes and labels of other classes are left out, and their pixels are
        ignored. `info.report` says which classes these are.
        """
        if classes == self.target_classes:
            return self
        lost = [
            name
            for kind in ("label_set", "boxes", "mask")
            for name in getattr(self.target_classes, kind)
            if getattr(classes, kind) and name not in getattr(classes, kind)
        ]
        info = self.info
        if lost:
            note = f"The classes {', '.join(lost)} of {info.name} are not known, and are not scored."
            report = info.report.model_copy(update={"notes": (*info.report.notes, note)})
            info = info.model_copy(update={"report": report})
        return self._like(info, self._rows, self.sources, classes)

    def order(self, batch_size: int, seed: int) -> Order:
        """Return the order in which batches draw the images."""
        if self.is_streamed and self.stream is not None:
            return self.stream.order(batch_size, seed)
        if len(self.sizes) > 1:
            return BucketOrder(self.buckets_at(np.arange(len(self))), batch_size, seed)
        return ShuffledOrder(len(self), batch_size, seed)

    @property
    def is_streamed(self) -> bool:
        """Return whether images are streamed from shards.

        Only some of them can then be looked at.
        """
        return self.stream is not None and self._rows is None

    def surveyed_rows(self) -> NDArray[np.int64]:
        """Return the indices of the images that are looked at before training.

        All of them, or, if they are streamed, some that stand for all.
        """
        return self.stream.surveyed_rows() if self.is_streamed and self.stream else np.arange(len(self))

    def _like(
        self,
        info: DatasetInfo,
        rows: NDArray[np.integer] | None,
        sources: "Dataset | None",
        classes: TargetClasses,
    ) -> "Dataset":
        return Dataset(self.cache, info, rows, sources, classes, stream=self.stream)

    @functools.cached_property
    def _targets(self) -> TargetStore:
        return TargetStore(self.cache, self._manifest.targets, self.target_classes)

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
        assert self._rows is not None
        present = np.unique(self._store.labels_at(self._rows.astype(np.int64)))
        kept = present[present >= 0].tolist()
        kept = kept if len(kept) > 1 else []
        self._names = tuple(self._manifest.label_names[place] for place in kept)
        self._renamed[:] = -1
        self._renamed[kept] = np.arange(len(kept))

    @functools.cached_property
    def _renamed(self) -> NDArray[np.int64]:
        """Return a table from cache labels to these labels; its last entry, reached by -1, stays -1."""
        return np.append(np.arange(len(self._manifest.label_names)), -1)

    def _places(self, indices: Indices) -> NDArray[np.int64]:
        wanted = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask must have {len(self)} entries, one for each image")
            wanted = np.flatnonzero(wanted)
        wanted = wanted.astype(np.int64, copy=False)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"indices must lie in [0, {len(self)})")
        return wanted if self._rows is None else self._rows[wanted].astype(np.int64, copy=False)
