"""Random numbers as PyTorch's CPU generator draws them, in NumPy.

A seed then gives the same picture with and without PyTorch, up to rounding. The engine is MT19937 (Matsumoto
and Nishimura 1998), seeded with the low 32 bits of a seed. Uniform numbers are equal bit for bit; normal ones
differ by the rounding of logarithms and cosines.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from danqing.randomness import derived_seed

_BLOCK = 16
"""Normal numbers are drawn in blocks of this size; fewer than one block are drawn one by one."""
_HALF = _BLOCK // 2


class _NoEntropy(ISeedSequence):
    """Fills the state of a generator that is seeded afterwards: drawing entropy takes three times as long."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        return np.zeros(n_words, dtype)


_NO_ENTROPY = _NoEntropy()


class Generator:
    """Draws the numbers of `torch.Generator("cpu").manual_seed(seed)`, in the same order.

    seed: from 0 on.
    """

    def __init__(self, seed: int) -> None:
        self._engine = np.random.RandomState(np.random.MT19937(_NO_ENTROPY))  # type: ignore[arg-type]
        self._engine.seed(seed & 0xFFFFFFFF)
        self._waiting: float | None = None

    def uniform(self, count: int) -> NDArray[np.float32]:
        """Draw numbers in [0, 1), as `torch.rand` does, `[count]`."""
        kept = self._words(count) & np.uint32(0xFFFFFF)
        return kept.astype(np.float32) * np.float32(2.0**-24)

    def uniform_double(self, count: int) -> NDArray[np.float64]:
        """Draw numbers in [0, 1), as `torch.rand` does in float64, `[count]`."""
        words = self._words(2 * count).astype(np.uint64)
        whole = (words[::2] << np.uint64(32)) | words[1::2]
        kept: NDArray[np.float64] = (whole & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53
        return kept

    def normal(self, count: int) -> NDArray[np.float32]:
        """Draw standard normal numbers, as `torch.randn` does, `[count]`.

        Each two come from two uniform numbers (Box and Muller 1958). From 16 numbers on, PyTorch draws whole
        blocks, and the last 16 numbers again if their block is not whole.
        """
        if count < _BLOCK:
            return np.array([self._one_normal() for _ in range(count)], np.float32)
        uniforms = self.uniform(count)
        whole = count // _BLOCK * _BLOCK
        drawn = np.empty(count, np.float32)
        drawn[:whole] = _normal_blocks(uniforms[:whole])
        if whole < count:
            drawn[-_BLOCK:] = _normal_blocks(self.uniform(_BLOCK))
        return drawn

    def exponential(self, count: int) -> NDArray[np.float64]:
        """Draw numbers as `Tensor.exponential_` does in float64, `[count]`."""
        return -np.log1p(-self.uniform_double(count))

    def integers(self, bound: int, count: int) -> NDArray[np.int64]:
        """Draw whole numbers in [0, bound), as `torch.randint` does, `[count]`.

        bound: at most 2^32.
        """
        return (self._words(count).astype(np.uint64) % np.uint64(bound)).astype(np.int64)

    def multinomial(self, weights: Sequence[float] | NDArray[np.float64], count: int) -> NDArray[np.int64]:
        """Draw indices with probabilities, with replacement, as `torch.multinomial` does, `[count]`.

        weights: float64 `[k]`, not all 0; they need not add up to 1.
        """
        shares = np.asarray(weights, np.float64)
        if count == 1:  # the first of some independent events
            return np.array([(shares / self.exponential(len(shares))).argmax()], np.int64)
        sums = np.cumsum(shares)
        return np.searchsorted(sums / sums[-1], self.uniform_double(count)).astype(np.int64)

    def _words(self, count: int) -> NDArray[np.uint32]:
        return self._engine.randint(0, 2**32, count, dtype=np.uint32)

    def _one_normal(self) -> float:
        if self._waiting is not None:
            found, self._waiting = self._waiting, None
            return found
        angle, radius = self.uniform_double(2)
        radius, angle = math.sqrt(-2 * math.log1p(-radius)), 2 * math.pi * angle
        self._waiting = radius * math.sin(angle)
        return radius * math.cos(angle)


def normal(seeds: Sequence[int], shape: Sequence[int], purpose: str = "latents") -> NDArray[np.float32]:
    """Draw standard normal numbers `[len(seeds), *shape]`, as `danqing.randomness.normal` does."""
    count = math.prod(shape)
    rows = [Generator(derived_seed(seed, purpose)).normal(count) for seed in seeds]
    return np.stack(rows).reshape(len(seeds), *shape)


def uniform(seeds: Sequence[int], shape: Sequence[int], purpose: str) -> NDArray[np.float32]:
    """Draw uniform numbers `[len(seeds), *shape]`, as `danqing.randomness.uniform` does."""
    count = math.prod(shape)
    rows = [Generator(derived_seed(seed, purpose)).uniform(count) for seed in seeds]
    return np.stack(rows).reshape(len(seeds), *shape)


def _normal_blocks(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn uniform numbers into normal ones, 8 and 8 of each block of 16 together."""
    pairs = uniforms.reshape(-1, 2, _HALF)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - pairs[:, 0]))
    angle = np.float32(2 * math.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
