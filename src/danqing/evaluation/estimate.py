"""A number measured on samples, and how far it may be off."""

from dataclasses import dataclass

import torch
from torch import Tensor

from danqing.randomness import generator

LEVEL = 0.95
_RESAMPLES = 1000
_DRAWS_AT_ONCE = 200_000  # what a core's cache holds


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and, for each independent sample that it was measured on, what each item contributes to it.

    influences: one float64 tensor `[n]` per sample (the generated images, the real ones): the empirical
    influence function, up to a constant, so that the value responds to a resampling like the mean of these.
    Resampling the value itself would mislead where it is biased by the number of images: a bootstrap sample
    of n images holds only 0.63 n different ones, and its Fréchet distance lies above what it should bracket.
    (Efron and Tibshirani 1993, chapters 13 and 21.)
    """

    value: float
    influences: tuple[Tensor, ...] = ()

    def interval(self, seed: int = 0, level: float = LEVEL) -> tuple[float, float] | None:
        """The percentile bootstrap interval around the value; None where nothing was sampled."""
        if not self.influences:
            return None
        shifts = torch.zeros(_RESAMPLES, dtype=torch.float64)
        for number, influence in enumerate(self.influences):
            shifts += _resampled_means(influence.double() - influence.double().mean(), seed, number)
        tail = (1 - level) / 2
        low, high = torch.quantile(shifts, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return self.value + low, self.value + high


def mean_of(values: Tensor) -> Estimate:
    """The mean of one number per item, `[n]`."""
    values = values.double()
    return Estimate(float(values.mean()), (values,))


def _resampled_means(values: Tensor, seed: int, number: int) -> Tensor:
    rng = generator(seed, "bootstrap", number)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means = []
    for start in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - start)
        drawn = torch.randint(len(values), (count * len(values),), generator=rng)
        means.append(values.index_select(0, drawn).view(count, -1).mean(1))
    return torch.cat(means)
