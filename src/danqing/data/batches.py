"""Batches as a pure function of how many images have been seen: nothing is stored to resume."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import captions
from danqing.data.augment import Augment
from danqing.data.batch import Batch, Condition
from danqing.data.dataset import Dataset
from danqing.data.order import shuffled
from danqing.errors import DataError
from danqing.images import to_float
from danqing.machine import total_memory
from danqing.randomness import generator


class Batches:
    """A data set shuffled anew each epoch and cut into batches that run across the ends of epochs.

    augment: None for none; the data's own advice is `dataset.info.augment`. use_labels: whether the condition
    holds labels, where the data has any. use_texts: whether it holds captions, where the data has any: where
    an image has several, the seed and the images seen decide on one. hide_attributes: the probability with
    which each attribute of an image is treated as missing, so that a model learns to do without it. prefetch:
    whether a thread reads the next batch while this one is learned from, by default where the data exceeds
    half of the machine's memory; the batches are the same either way.
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
        prefetch: bool | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("There are no images to learn from: choose at least one.")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.augment = augment or Augment()
        self.device = torch.device(device)
        self.use_labels = use_labels and bool(dataset.label_names)
        self.use_texts = use_texts and dataset.has_texts
        self.hide_attributes = hide_attributes
        if prefetch is None:
            prefetch = len(dataset) * dataset.image_bytes > (total_memory() or 8e9) / 2
        self._ahead = _Ahead(self._read) if prefetch else None

    def at(self, images_seen: int) -> Batch:
        """The batch that follows after `images_seen` images, on the device."""
        pixels, condition = (
            self._ahead(images_seen, images_seen + self.batch_size)
            if self._ahead
            else self._read(images_seen)
        )
        images = self.augment.apply(pixels.to(self.device, non_blocking=True), self.seed, images_seen)
        return Batch(images, condition.to(self.device))

    def indices(self, images_seen: int) -> NDArray[np.int64]:
        """Which images that batch shows, int64 `[batch_size]`."""
        count = len(self.dataset)
        positions = np.arange(images_seen, images_seen + self.batch_size)
        epochs, places = positions // count, positions % count
        parts = [
            shuffled(places[epochs == epoch], count, self.seed, epoch) for epoch in np.unique(epochs).tolist()
        ]
        return np.concatenate(parts)

    def condition(self, images_seen: int) -> Condition:
        """What is known of the images of that batch, on the CPU."""
        indices = self.indices(images_seen)
        label = torch.from_numpy(self.dataset.labels_at(indices)) if self.use_labels else None
        texts = self.dataset.texts(indices) if self.use_texts else None
        text = None if texts is None else captions.chosen(texts, self.seed, images_seen)
        image = to_float(self.dataset.source_images(indices)) if self.dataset.has_pairs else None
        if not self.dataset.attributes:
            return Condition(label=label, text=text, image=image)
        values = torch.from_numpy(self.dataset.attributes_at(indices))
        known = ~values.isnan() & ~self._hidden(images_seen)
        return Condition(
            label=label, text=text, image=image, attributes=values.where(known, 0.0), attribute_mask=known
        )

    def _hidden(self, images_seen: int) -> Tensor:
        """Which attributes of that batch are hidden, bool `[batch_size, sum of widths]`."""
        columns = self.dataset.attributes
        rng = generator(self.seed, "hide attributes", images_seen)
        hidden = torch.rand(self.batch_size, len(columns), generator=rng) < self.hide_attributes
        return hidden.repeat_interleave(torch.tensor([column.width for column in columns]), dim=1)

    def _read(self, images_seen: int) -> tuple[Tensor, Condition]:
        return self.dataset.full_depth(self.indices(images_seen)), self.condition(images_seen)


class _Ahead:
    """Reads the batch that is expected next in a thread; any other position is read when asked for."""

    def __init__(self, read: Callable[[int], tuple[Tensor, Condition]]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="danqing-prefetch")
        self._position = -1
        self._next: Future[tuple[Tensor, Condition]] | None = None

    def __call__(self, position: int, following: int) -> tuple[Tensor, Condition]:
        hit = self._next if self._position == position else None
        current = hit or self._pool.submit(self._read, position)
        self._position, self._next = following, self._pool.submit(self._read, following)
        return current.result()
