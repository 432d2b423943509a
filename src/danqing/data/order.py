"""The order of images: a permutation per epoch, computed on demand and never stored."""

import math

import numpy as np
from numpy.typing import NDArray

from danqing.randomness import derived_seed

ROUNDS = 8


def shuffled(positions: NDArray[np.int64], count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Apply a keyed permutation of `range(count)` to `positions`, in constant memory.

    A Feistel network over Z_a x Z_b with a * b just above `count` (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002, section 5), applied again to results of `count` or above.
    """
    if count < 1 or (positions.size and (positions.min() < 0 or positions.max() >= count)):
        raise ValueError(f"positions must lie in [0, {count})")
    a = math.isqrt(count - 1) + 1
    b = -(-count // a)
    keys = [np.uint64(derived_seed(seed, "order", epoch, number)) for number in range(ROUNDS)]
    result = positions.astype(np.uint64)
    outside = np.ones(result.shape, bool)
    while outside.any():
        result[outside] = _walk(result[outside], np.uint64(a), np.uint64(b), keys)
        outside = result >= count
    return result.astype(np.int64)


def _walk(
    values: NDArray[np.uint64], a: np.uint64, b: np.uint64, keys: list[np.uint64]
) -> NDArray[np.uint64]:
    left, right = values % a, values // a
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _mixed(right, key) % a) % a
        else:
            right = (right + _mixed(left, key) % b) % b
    return right * a + left


def _mixed(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Hash each value under `key` with the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
