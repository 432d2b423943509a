"""The order of images: a permutation per epoch, computed on demand and never stored."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing.randomness import derived_seed, keyed_uniform

ROUNDS = 8
_KEPT = 2
"""Rounds of buckets that are remembered: of this batch, and of the next one, which a thread may read."""


class Drawn(NamedTuple):
    """The images of a batch.

    indices: int64 `[batch size]`. epochs: the number of earlier passes over the images, of each.
    """

    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]


class Order(Protocol):
    """The order in which images are drawn."""

    def at(self, images_seen: int) -> Drawn:
        """Return the batch that follows after `images_seen` images."""
        ...


class ShuffledOrder:
    """All images, shuffled in each epoch and cut into batches.

    A batch may span two epochs.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed

    def at(self, images_seen: int) -> Drawn:
        """Return the batch that follows after `images_seen` images."""
        return _drawn(images_seen, self._batch_size, self._count, self._seed)


class PoissonOrder:
    """Batches that hold each image with the same probability, independently.

    A batch therefore has `batch_size` images on average, and may have none. The accounting of a private run
    needs such batches.
    key: 32 bytes; the batch follows from it and the position.
    """

    def __init__(self, count: int, batch_size: int, key: bytes) -> None:
        self._count, self._share, self._key = count, batch_size / count, key

    def at(self, images_seen: int) -> Drawn:
        """Return the batch at a position."""
        uniforms = keyed_uniform(self._key, "poisson", images_seen, count=self._count)
        indices = np.flatnonzero(uniforms < self._share)
        return Drawn(indices, np.full(len(indices), images_seen))


class BucketOrder:
    """Batches of images of one bucket each.

    buckets: of each image, `[n]`.

    Every bucket has an order of its own, as `ShuffledOrder` has: no image of it is skipped or repeated before
    all others of it were drawn. Buckets take turns in rounds of about n images. By the end of round r, a
    bucket of m images has given r * m images, rounded down to whole batches. The turns within a round are
    shuffled.
    """

    def __init__(self, buckets: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._batch_size, self._seed = batch_size, seed
        self._names = np.unique(buckets).tolist()
        self._members = [np.flatnonzero(buckets == name) for name in self._names]
        self._counts = np.array([len(members) for members in self._members])
        self._rounds: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def at(self, images_seen: int) -> Drawn:
        """Return the batch that follows after `images_seen` images, in whole batches."""
        batch = images_seen // self._batch_size
        number = images_seen // int(self._counts.sum())
        while self._given(number + 1).sum() <= batch:
            number += 1
        buckets, batches = self._round(number)
        place = batch - int(self._given(number).sum())
        bucket, start = int(buckets[place]), int(batches[place]) * self._batch_size
        seed, members = derived_seed(self._seed, "bucket", self._names[bucket]), self._members[bucket]
        drawn = _drawn(start, self._batch_size, len(members), seed)
        return Drawn(members[drawn.indices], drawn.epochs)

    def _round(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bucket of each turn of a round, and which of the bucket's batches it gives."""
        found = self._rounds.get(number)
        if found is None:
            given, following = self._given(number), self._given(number + 1)
            numbers = np.repeat(np.arange(len(given)), following - given)
            seed = derived_seed(self._seed, "turns")
            buckets = numbers[shuffled(np.arange(len(numbers)), len(numbers), seed, number)]
            batches = np.empty_like(buckets)
            batches[np.argsort(buckets, kind="stable")] = np.concatenate([*map(np.arange, given, following)])
            found = buckets, batches
            self._rounds = dict([*list(self._rounds.items())[1 - _KEPT :], (number, found)])
        return found

    def _given(self, number: int) -> NDArray[np.int64]:
        """Return how many batches each bucket has given before a round."""
        return number * self._counts // self._batch_size


def _drawn(start: int, batch_size: int, count: int, seed: int) -> Drawn:
    """Draw positions `start` to `start + batch_size` of an endless sequence of shuffled epochs."""
    positions = np.arange(start, start + batch_size)
    epochs, places = positions // count, positions % count
    parts = [shuffled(places[epochs == epoch], count, seed, epoch) for epoch in np.unique(epochs).tolist()]
    return Drawn(np.concatenate(parts), epochs)


def shuffled(positions: NDArray[np.int64], count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Apply a keyed permutation of `range(count)` to `positions`, in constant memory.

    A Feistel network over Z_a x Z_b with a * b just above `count` (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002, section 5), applied again to results of `count` or above.
    """
    if count < 1 or (positions.size and (positions.min() < 0 or positions.max() >= count)):
        raise ValueError(f"positions must lie in [0, {count})")
    a, b, keys = _network(count, seed, epoch)
    return _permuted(positions, np.uint64(count), np.uint64(a), np.uint64(b), list(keys))


class Permutations:
    """The permutations of `shuffled` for several ranges at once.

    counts: the length of each range, `[r]`; an empty one has no positions. seeds: of each range.
    """

    def __init__(self, counts: NDArray[np.int64], seeds: Sequence[int], epoch: int) -> None:
        networks = [
            _network(max(1, count), seed, epoch) for count, seed in zip(counts.tolist(), seeds, strict=True)
        ]
        self._counts = counts.astype(np.uint64)
        self._a, self._b = (np.array([network[side] for network in networks], np.uint64) for side in (0, 1))
        self._keys = np.array([network[2] for network in networks], np.uint64).reshape(-1, ROUNDS)

    def at(self, positions: NDArray[np.int64], ranges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return positions permuted, each within its range, int64 `[n]`."""
        first = int(ranges[0]) if len(ranges) else 0
        if (ranges == first).all():  # division by one number is faster than by many
            return _permuted(
                positions, self._counts[first], self._a[first], self._b[first], list(self._keys[first])
            )
        keys = [self._keys[ranges, number] for number in range(ROUNDS)]
        return _permuted(positions, self._counts[ranges], self._a[ranges], self._b[ranges], keys)


_Numbers = np.uint64 | NDArray[np.uint64]
"""One number for all positions, or one for each."""


def _network(count: int, seed: int, epoch: int) -> tuple[int, int, list[np.uint64]]:
    """Return the sides of the Feistel network of a permutation, and its keys."""
    a = math.isqrt(count - 1) + 1
    keys = [np.uint64(derived_seed(seed, "order", epoch, number)) for number in range(ROUNDS)]
    return a, -(-count // a), keys


def _permuted(
    positions: NDArray[np.int64], count: _Numbers, a: _Numbers, b: _Numbers, keys: Sequence[_Numbers]
) -> NDArray[np.int64]:
    result = _walk(positions.astype(np.uint64), a, b, keys)
    outside = np.flatnonzero(result >= count)
    while len(outside):
        own = [_at(numbers, outside) for numbers in (a, b, *keys)]
        walked = _walk(result[outside], own[0], own[1], own[2:])
        result[outside] = walked
        outside = outside[walked >= _at(count, outside)]
    return result.astype(np.int64)


def _at(numbers: _Numbers, places: NDArray[np.int64]) -> _Numbers:
    return numbers[places] if isinstance(numbers, np.ndarray) else numbers


def _walk(
    values: NDArray[np.uint64], a: _Numbers, b: _Numbers, keys: Sequence[_Numbers]
) -> NDArray[np.uint64]:
    right = values // a
    left = values - right * a
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = _added(left, _mixed(right, key), a)
        else:
            right = _added(right, _mixed(left, key), b)
    return right * a + left


def _added(values: NDArray[np.uint64], mixed: NDArray[np.uint64], limit: _Numbers) -> NDArray[np.uint64]:
    """Return the sums modulo `limit` of values below it and of any numbers."""
    # Dividing by one number and multiplying again is twice as fast as the remainder.
    rest = mixed % limit if isinstance(limit, np.ndarray) else mixed - mixed // limit * limit
    sums = values + rest
    lower: NDArray[np.uint64] = np.minimum(sums, sums - limit)  # a difference below 0 wraps around
    return lower


def _mixed(values: NDArray[np.uint64], key: _Numbers) -> NDArray[np.uint64]:
    """Hash each value under `key` with the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
