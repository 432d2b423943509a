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
from danqing.data.order import BucketOrder, Order, ShuffledOrder
from danqing.errors import DataError
from danqing.machine import total_memory
from danqing.randomness import derived_seed, generator


class _Read(NamedTuple):
    """What is read of a batch: pixels `[n, h, w, c]`, those of the sources of pairs, and the condition."""

    pixels: Tensor
    sources: Tensor | None
    condition: Condition


class Batches:
    """A data set, shuffled each epoch and cut into batches.

    A batch may span two epochs. With buckets, all images of a batch have one size; `order.BucketOrder` says
    which bucket a batch is from.

    augment: None for none; `dataset.info.augment` is the data's default. use_labels: whether the condition
    holds labels, if the data has any. use_texts: whether it holds captions, if the data has any; of several
    captions, the seed and the images seen select one. hide_attributes: the probability with which each
    attribute of an image is treated as missing, so that a model learns to do without it. degrade: makes the
    source image of each image, or changes the source images of pairs, which are augmented like their targets.
    Source images of another domain (`dataset.sources`) are shuffled and augmented by themselves, and each of
    them is drawn equally often. prefetch: whether a thread reads the next batch during the training step, by
    default if the data exceeds half of the machine's memory; the batches are the same either way.
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
    ) -> None:
        if len(dataset) == 0:
            raise DataError("There are no images to learn from: choose at least one.")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.augment = augment or Augment()
        self.device = torch.device(device)
        self.use_labels = use_labels and bool(dataset.label_names)
        self.use_texts = use_texts and dataset.has_texts
        self.hide_attributes, self.degrade = hide_attributes, degrade
        count = len(dataset)
        self._order: Order = ShuffledOrder(count, batch_size, seed)
        if len(dataset.sizes) > 1:
            self._order = BucketOrder(dataset.buckets_at(np.arange(count)), batch_size, seed)
        self._sources: Batches | None = None
        if dataset.sources is not None:
            own: dict[str, Any] = {"augment": augment, "device": device, "prefetch": prefetch}
            self._sources = Batches(dataset.sources, batch_size, derived_seed(seed, "sources"), **own)
        if prefetch is None:
            prefetch = len(dataset) * dataset.image_bytes > (total_memory() or 8e9) / 2
        self._ahead = _Ahead(self._read) if prefetch else None

    def at(self, images_seen: int) -> Batch:
        """Return the batch that follows after `images_seen` images, on the device."""
        read = (
            self._ahead(images_seen, images_seen + self.batch_size)
            if self._ahead
            else self._read(images_seen)
        )
        images = self._changed(read.pixels, images_seen)
        condition = read.condition.to(self.device)
        source = None if read.sources is None else self._changed(read.sources, images_seen)
        if self._sources is not None:
            source = self._sources.at(images_seen).images
        if self.degrade is not None:
            degraded = images if source is None else source
            source = self.degrade.apply(degraded, self._seeds(images_seen))
        return Batch(images, condition if source is None else replace(condition, image=source))

    def indices(self, images_seen: int) -> NDArray[np.int64]:
        """Return the indices of that batch's images, int64 `[batch_size]`."""
        return self._order.at(images_seen).indices

    def condition(self, images_seen: int) -> Condition:
        """Return that batch's condition without source images, on the CPU."""
        indices = self.indices(images_seen)
        label = torch.from_numpy(self.dataset.labels_at(indices)) if self.use_labels else None
        texts = self.dataset.texts(indices) if self.use_texts else None
        text = None if texts is None else captions.chosen(texts, self.seed, images_seen)
        if not self.dataset.attributes:
            return Condition(label=label, text=text)
        values = torch.from_numpy(self.dataset.attributes_at(indices))
        known = ~values.isnan() & ~self._hidden(images_seen)
        return Condition(label=label, text=text, attributes=values.where(known, 0.0), attribute_mask=known)

    def _hidden(self, images_seen: int) -> Tensor:
        """Which attributes of that batch are hidden, bool `[batch_size, sum of widths]`."""
        columns = self.dataset.attributes
        rng = generator(self.seed, "hide attributes", images_seen)
        hidden = torch.rand(self.batch_size, len(columns), generator=rng) < self.hide_attributes
        return hidden.repeat_interleave(torch.tensor([column.width for column in columns]), dim=1)

    def _changed(self, pixels: Tensor, images_seen: int) -> Tensor:
        """The pixels of that batch on the device, augmented: sources and targets in the same way."""
        return self.augment.apply(pixels.to(self.device, non_blocking=True), self.seed, images_seen)

    def _seeds(self, images_seen: int) -> list[int]:
        """A seed for each image of that batch in its epoch."""
        epochs = self._order.at(images_seen).epochs
        pairs = zip(self.indices(images_seen).tolist(), epochs.tolist(), strict=True)
        return [derived_seed(self.seed, "degrade", image, epoch) for image, epoch in pairs]

    def _read(self, images_seen: int) -> _Read:
        indices = self.indices(images_seen)
        sources = self.dataset.source_images(indices) if self.dataset.has_pairs else None
        return _Read(self.dataset.full_depth(indices), sources, self.condition(images_seen))


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
