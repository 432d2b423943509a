"""Batches as a pure function of the number of images seen: resuming needs no stored state."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import captions
from danqing.data.augment import Augment
from danqing.data.batch import Batch, Condition
from danqing.data.dataset import Dataset
from danqing.data.degrade import Degradation
from danqing.data.order import Order
from danqing.data.shards.order import WindowOrder
from danqing.data.targets import Targets
from danqing.errors import DataError
from danqing.machine import total_memory
from danqing.randomness import derived_seed, generator

Told = Callable[[Condition, int], Condition]
"""A function that changes the condition of so many images."""


class _Read(NamedTuple):
    """What is read of a batch.

    Pixels `[n, h, w, c]`, those of the sources of pairs, the condition and the targets.
    """

    pixels: Tensor
    sources: Tensor | None
    condition: Condition
    targets: Targets | None

    def within(self, rows: slice) -> "_Read":
        """Return some of the rows."""
        sources = None if self.sources is None else self.sources[rows]
        targets = None if self.targets is None else self.targets.mapped(lambda value: value[rows])
        return _Read(self.pixels[rows], sources, self.condition[rows], targets)


class Batches:
    """A data set, shuffled each epoch and cut into batches.

    A batch may span two epochs. With buckets, all images of a batch have one size; `order.BucketOrder` says
    which bucket a batch is from.

    augment: None for none; `dataset.info.augment` is the data's default. use_labels: whether the condition
    holds labels, if the data has any. use_texts: whether it holds captions, if the data has any; of several
    captions, the seed and the images seen select one. hide_attributes: the probability with which each
    attribute of an image is treated as missing, so that a model learns to do without it. degrade: makes the
    source image of each image, or changes the source images of pairs, which are augmented like their targets.
    Targets move with their images.
    Source images of another domain (`dataset.sources`) are shuffled and augmented by themselves, and each of
    them is drawn equally often. prefetch: whether a thread reads the next batch during the training step, by
    default if the data is streamed or exceeds half of the machine's memory; the batches are the same either
    way.
    told: changes each condition, for a model that knows the images by other names.
    order: of the images, instead of a shuffled one.
    rows: of each batch, that are read here; by default, all. Other processes may read the others.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        *,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
        use_labels: bool = True,
        use_texts: bool = False,
        hide_attributes: float = 0.0,
        degrade: Degradation | None = None,
        prefetch: bool | None = None,
        order: Order | None = None,
        rows: slice | None = None,
        told: Told | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("There are no images to learn from: choose at least one.")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.augment = augment or Augment()
        self.device = torch.device(device)
        self.use_labels = use_labels and bool(dataset.label_names)
        self.use_texts = use_texts and dataset.has_texts
        self.hide_attributes, self.degrade = hide_attributes, degrade
        self.rows = rows or slice(0, None)
        self._told = told
        self._order: Order = order or dataset.order(batch_size, seed)
        self._sources: Batches | None = None
        if dataset.sources is not None:
            own: dict[str, Any] = {"augment": augment, "device": device, "prefetch": prefetch, "rows": rows}
            self._sources = Batches(dataset.sources, batch_size, derived_seed(seed, "sources"), **own)
        if prefetch is None:
            is_large = len(dataset) * dataset.image_bytes > (total_memory() or 8e9) / 2
            prefetch = is_large or dataset.stream is not None
        self._ahead = _Ahead(self._read) if prefetch else None
        self._latest: tuple[int, _Read] | None = None

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        """Return the batch that follows after `images_seen` images, on the device.

        rows: of this batch, among those that are read here; by default, all of these. An image is the same
            whichever rows it is returned with, except for rounding.
        """
        rows = self.rows if rows is None else rows
        if rows == self.rows:
            read = self._read_next(images_seen)
        else:
            start = self.rows.start
            read = self._read_once(images_seen).within(slice(rows.start - start, rows.stop - start))
        images = self._changed(read.pixels, images_seen, rows)
        condition = read.condition.to(self.device)
        source = None if read.sources is None else self._changed(read.sources, images_seen, rows)
        if self._sources is not None:
            source = self._sources.at(images_seen, rows).images
        if self.degrade is not None:
            degraded = images if source is None else source
            source = self.degrade.apply(degraded, self._seeds(images_seen, rows))
        targets = read.targets
        if targets is not None:
            targets = targets.mapped(lambda value: value.to(self.device, non_blocking=True))
            targets = self.augment.apply_to_targets(
                targets, self.dataset.size, self.seed, images_seen, **self._place(rows)
            )
        condition = condition if source is None else replace(condition, image=source)
        return Batch(images, condition, targets=targets)

    def indices(self, images_seen: int, rows: slice | None = None) -> NDArray[np.int64]:
        """Return the indices of that batch's images, int64 `[n]`.

        rows: as of `at`.
        """
        return self._order.at(images_seen).indices[self.rows if rows is None else rows]

    def condition(self, images_seen: int, rows: slice | None = None) -> Condition:
        """Return that batch's condition without source images, on the CPU.

        rows: as of `at`.
        """
        rows = self.rows if rows is None else rows
        indices = self.indices(images_seen, rows)
        label = torch.from_numpy(self.dataset.labels_at(indices)) if self.use_labels else None
        texts = self.dataset.texts(indices) if self.use_texts else None
        text = None if texts is None else captions.chosen(texts, self.seed, images_seen + rows.start)
        condition = Condition(label=label, text=text)
        if self.dataset.attributes:
            values = torch.from_numpy(self.dataset.attributes_at(indices))
            known = ~values.isnan() & ~self._hidden(images_seen)[rows]
            condition = replace(condition, attributes=values.where(known, 0.0), attribute_mask=known)
        return condition if self._told is None else self._told(condition, len(indices))

    def _hidden(self, images_seen: int) -> Tensor:
        """Which attributes of that batch are hidden, bool `[batch_size, sum of widths]`."""
        columns = self.dataset.attributes
        rng = generator(self.seed, "hide attributes", images_seen)
        hidden = torch.rand(self.batch_size, len(columns), generator=rng) < self.hide_attributes
        return hidden.repeat_interleave(torch.tensor([column.width for column in columns]), dim=1)

    def _changed(self, pixels: Tensor, images_seen: int, rows: slice) -> Tensor:
        """The pixels of that batch on the device, augmented: sources and targets in the same way."""
        pixels = pixels.to(self.device, non_blocking=True)
        return self.augment.apply(pixels, self.seed, images_seen, **self._place(rows))

    def _place(self, rows: slice) -> dict[str, Any]:
        """Where rows are in their batch, as augmentation takes it."""
        return {} if rows.stop is None else {"first": rows.start, "of": self.batch_size}

    def _seeds(self, images_seen: int, rows: slice) -> list[int]:
        """A seed for each image of that batch in its epoch."""
        drawn = self._order.at(images_seen)
        pairs = zip(self.indices(images_seen, rows).tolist(), drawn.epochs[rows].tolist(), strict=True)
        return [derived_seed(self.seed, "degrade", image, epoch) for image, epoch in pairs]

    def fetch(self, images_seen: int) -> None:
        """Fetch the shards of a batch ahead, if the images are streamed."""
        if isinstance(self._order, WindowOrder) and self.dataset.stream is not None:
            self.dataset.stream.fetch(self._order, images_seen)

    def _read_once(self, images_seen: int) -> _Read:
        """What is read of a batch; it is kept while parts of the same batch are requested."""
        if self._latest is None or self._latest[0] != images_seen:
            self._latest = images_seen, self._read_next(images_seen)
        return self._latest[1]

    def _read_next(self, images_seen: int) -> _Read:
        if self._ahead is None:
            return self._read(images_seen)
        return self._ahead(images_seen, images_seen + self.batch_size)

    def _read(self, images_seen: int) -> _Read:
        self.fetch(images_seen)
        indices = self.indices(images_seen)
        sources = self.dataset.source_images(indices) if self.dataset.has_pairs else None
        targets = self.dataset.targets_at(indices) if self.dataset.has_targets else None
        return _Read(self.dataset.full_depth(indices), sources, self.condition(images_seen), targets)


class _Ahead:
    """Reads the next batch ahead in a thread; any other batch is read on demand."""

    def __init__(self, read: Callable[[int], _Read]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="danqing-prefetch")
        self._position = -1
        self._next: Future[_Read] | None = None

    def __call__(self, position: int, following: int) -> _Read:
        hit = self._next if self._position == position else None
        current = hit or self._pool.submit(self._read, position)
        self._position, self._next = following, self._pool.submit(self._read, following)
        return current.result()
