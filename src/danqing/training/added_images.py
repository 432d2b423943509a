"""Images that a run learns from besides its data, such as generated ones; they are never held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Batches, Dataset
from danqing.data.batch import Batch, Condition
from danqing.data.order import ShuffledOrder
from danqing.randomness import derived_seed


class Pool(NamedTuple):
    """Images with one label each, of the size of the data.

    read: from row numbers `[m]` to pixels `[m, h, w, c]`, uint8 or uint16.
    labels: int64 `[n]`, as the data numbers its labels; -1 for images without labels. texts: of each image,
    for a model that reads text.
    """

    read: Callable[[NDArray[np.int64]], Tensor]
    labels: NDArray[np.int64]
    texts: tuple[str, ...] | None = None


class MixedBatches(Batches):
    """Batches of the data's images and those of a pool.

    They are augmented alike. Both are shuffled by themselves, so that each image of the data is seen equally
    often.
    batch_size: of all images together; those of the data come first. share: of the pool's images, in (0, 1).
    rows: of the whole batch, as of `Batches`.
    """

    def __init__(
        self,
        dataset: Dataset,
        pool: Pool,
        *,
        batch_size: int,
        share: float,
        seed: int,
        rows: slice | None = None,
        **options: Any,
    ) -> None:
        added = min(max(1, round(batch_size * share)), batch_size - 1)
        self._own = rows or slice(0, batch_size)
        of_data = _shifted(self._own, 0, batch_size - added)
        super().__init__(dataset, batch_size - added, seed, rows=of_data, **options)
        self._whole, self._pool = batch_size, pool
        self._added_seed = derived_seed(seed, "added images")
        self._added_order = ShuffledOrder(len(pool.labels), added, self._added_seed)
        self._added = added

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        """Return the batch that follows after `images_seen` images of both kinds.

        rows: as of `Batches.at`.
        """
        rows = self._own if rows is None else rows
        number, parts, labels = images_seen // self._whole, [], []
        texts: tuple[str, ...] = ()
        of_data = _shifted(rows, 0, self.batch_size)
        if of_data.start < of_data.stop:
            batch = super().at(number * self.batch_size, of_data)
            parts.append(batch.images)
            labels.append(batch.condition.label)
            texts += batch.condition.text or ()
        of_pool = _shifted(rows, self.batch_size, self._added)
        if of_pool.start < of_pool.stop:
            start = number * self._added
            drawn = self._added_order.at(start).indices[of_pool]
            pixels, place = (
                self._pool.read(drawn).to(self.device),
                {"first": of_pool.start, "of": self._added},
            )
            parts.append(self.augment.apply(pixels, self._added_seed, start, **place))
            labels.append(torch.from_numpy(self._pool.labels[drawn]).to(self.device))
            texts += tuple(self._pool.texts[row] for row in drawn) if self._pool.texts is not None else ()
        images = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        is_labelled = self.use_labels or bool((self._pool.labels >= 0).all())
        known = [label for label in labels if label is not None] if is_labelled else []
        told = Condition(label=torch.cat(known) if known else None, text=texts or None)
        return Batch(images, told)


def _shifted(rows: slice, start: int, count: int) -> slice:
    """Return those of some rows that are among `count` rows from `start` on, counted from there."""
    return slice(*(min(max(row - start, 0), count) for row in (rows.start, rows.stop)))
