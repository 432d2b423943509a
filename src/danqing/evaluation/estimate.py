"""A number measured on samples, and how far it may be off."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from danqing.randomness import generator

LEVEL = 0.95
_RESAMPLES = 1000
_DRAWS_AT_ONCE = 200_000  # what a core's cache holds


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value, and what each item contributed to it.

    influences: one float64 tensor `[n]` per sample (the generated images, the real ones): the empirical
    influence function, up to a constant, so that the value responds to a resampling like the mean of these.
    Resampling the value itself would mislead where it is biased by the number of images: a bootstrap sample
    of n images holds only 0.63 n different ones, and its Fréchet distance lies above what it should bracket.
    (Efron and Tibshirani 1993, chapters 13 and 21.)

    least, most: no value of the kind lies beyond them, and so no end of the interval does. is_share: whether
    the value is the mean of the first sample's influences, each of them 0 or 1. Any value from 0 to 1 has a
    share's interval at 0 and at 1, where all its items are alike.
    """

    value: float
    influences: tuple[Tensor, ...] = ()
    least: float = -math.inf
    most: float = math.inf
    is_share: bool = False

    def interval(self, seed: int = 0, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the percentile bootstrap interval around the value.

        None if nothing was sampled, or if the value is not finite.

        The items of a share have Wilson's interval instead, since resampling items that are all alike finds
        no spread; the two are joined by their squares (Zou and Donner 2008, equation 7).
        """
        if not self.influences or not math.isfinite(self.value):
            return None
        low = high = self.value
        at_an_end = (self.least, self.most) == (0, 1) and self.value in (0, 1)
        if self.is_share or at_an_end:
            low, high = _wilson(self.value, len(self.influences[0]), level)
        shifts = torch.zeros(_RESAMPLES, dtype=torch.float64)
        for number, influence in enumerate(self.influences):
            if number or not self.is_share:
                shifts += _resampled_means(influence.double() - influence.double().mean(), seed, number)
        tail = (1 - level) / 2
        below, above = torch.quantile(shifts, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        low = self.value - math.hypot(self.value - low, below)
        high = self.value + math.hypot(high - self.value, above)
        return max(low, self.least), min(high, self.most)


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of one number per item `[n]` as an estimate.

    Of booleans it is the share that is true.
    """
    if values.dtype == torch.bool:
        return share_of(values)
    values = values.double()
    return Estimate(float(values.mean()), (values,))


def share_of(hits: Tensor, *others: Tensor) -> Estimate:
    """The share of items that are true, `[n]`; others: influences of samples that it depends on beside."""
    hits = hits.double()
    return Estimate(float(hits.mean()), (hits, *others), least=0.0, most=1.0, is_share=True)


def _wilson(share: float, count: int, level: float) -> tuple[float, float]:
    """The interval of a share of `count` items (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def _resampled_means(values: Tensor, seed: int, number: int) -> Tensor:
    rng = generator(seed, "bootstrap", number)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means = []
    for start in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - start)
        drawn = torch.randint(len(values), (count * len(values),), generator=rng)
        means.append(values.index_select(0, drawn).view(count, -1).mean(1))
    return torch.cat(means)
