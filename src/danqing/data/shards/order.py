"""The order of streamed images: shuffled shards, and within a window of some of them, shuffled images."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data.order import Drawn, Permutations, shuffled
from danqing.randomness import derived_seed

_KEPT = 2
"""Epochs whose order of shards is remembered: this one, and the next one, which a thread may read."""
_AT_ONCE = 2**15
"""Positions that are computed together: as many as fit into the caches of a processor."""


class _Epoch(NamedTuple):
    """The order of the shards in one epoch.

    shards: `[s]`. ends: after which position of the epoch each of them ends. window_ends: the same for
    windows. permutations: of the images within each window.
    """

    shards: NDArray[np.int64]
    ends: NDArray[np.int64]
    window_ends: NDArray[np.int64]
    permutations: Permutations


class WindowOrder:
    """An order of images that needs only some shards at once.

    The shards are shuffled in each epoch and read in windows of `window` shards. The images of a window are
    shuffled among each other. The image at a position follows from the seed, the epoch and the position
    alone, so that a run resumes anywhere, with any number of processes. Memory grows with the shards, not
    with the images.
    counts: the images of each shard, `[s]`.
    """

    def __init__(self, counts: NDArray[np.int64], batch_size: int, seed: int, window: int) -> None:
        self._counts, self._batch_size, self._seed, self._window = counts, batch_size, seed, window
        self._starts = np.cumsum(counts) - counts
        self._total = int(counts.sum())
        self._epochs: dict[int, _Epoch] = {}

    def at(self, images_seen: int) -> Drawn:
        """Return the batch that follows after `images_seen` images.

        The indices count the images of all shards, one shard after the other.
        """
        positions = np.arange(images_seen, images_seen + self._batch_size)
        epochs, places = positions // self._total, positions % self._total
        parts = []
        for epoch in np.unique(epochs).tolist():
            shards, offsets = self.located(places[epochs == epoch], epoch)
            parts.append(self._starts[shards] + offsets)
        return Drawn(np.concatenate(parts), epochs)

    def located(
        self, positions: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shards and places of positions of an epoch."""
        found = self._epoch(epoch)
        shards, offsets = np.empty_like(positions), np.empty_like(positions)
        for begin in range(0, len(positions), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            windows = np.searchsorted(found.window_ends, positions[part], side="right")
            before = np.where(windows > 0, found.window_ends[windows - 1], 0)
            starts = before + found.permutations.at(positions[part] - before, windows)
            ranks = np.searchsorted(found.ends, starts, side="right")
            shards[part] = found.shards[ranks]
            offsets[part] = starts - (found.ends[ranks] - self._counts[found.shards[ranks]])
        return shards, offsets

    def shards_at(self, images_seen: int) -> tuple[list[int], list[int]]:
        """Return the shards needed at a position, and those needed next.

        These are of the other windows of the batch at that position, and of the one after it.
        """
        now, position = self._window_at(images_seen)
        following = dict[int, None]()
        is_last = False
        while not is_last:
            is_last = position >= images_seen + self._batch_size
            shards, position = self._window_at(position)
            following |= dict.fromkeys(shard for shard in shards if shard not in now)
        return now, list(following)

    def _window_at(self, position: int) -> tuple[list[int], int]:
        """Return the shards of the window at a position, and the position after the window."""
        epoch, place = divmod(position, self._total)
        found = self._epoch(epoch)
        number = int(np.searchsorted(found.window_ends, place, side="right"))
        shards = found.shards[number * self._window : (number + 1) * self._window]
        end = epoch * self._total + int(found.window_ends[number])
        return [int(shard) for shard in shards if self._counts[shard]], end

    def _epoch(self, number: int) -> _Epoch:
        found = self._epochs.get(number)
        if found is None:
            count = len(self._counts)
            shards = shuffled(np.arange(count), count, derived_seed(self._seed, "shards"), number)
            ends = np.cumsum(self._counts[shards])
            lasts = np.minimum(np.arange(1, math.ceil(count / self._window) + 1) * self._window, count) - 1
            window_ends = ends[lasts]
            sizes = np.diff(window_ends, prepend=0)
            seeds = [derived_seed(self._seed, "window", place) for place in range(len(sizes))]
            found = _Epoch(shards, ends, window_ends, Permutations(sizes, seeds, number))
            self._epochs = dict([*list(self._epochs.items())[1 - _KEPT :], (number, found)])
        return found
