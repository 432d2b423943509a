"""Whether a model repeats its training images: distances to them, duplicates, membership."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.neighbours import nearest

NEIGHBOURS = 10
"""How many training images an image's neighbourhood is made of."""
RARE = 0.01
"""What only this share of real images does is called suspicious."""


@dataclass(frozen=True)
class Neighbourhood:
    """The nearest training images of each image, closest first.

    distances, indices: `[n, k]`.
    """

    distances: Tensor
    indices: Tensor

    @staticmethod
    def of(points: Rows, training: Rows) -> "Neighbourhood":
        return Neighbourhood(*nearest(points, training, min(NEIGHBOURS, training.shape[0])))

    @property
    def closest(self) -> Tensor:
        """The distance to the nearest training image, `[n]`."""
        return self.distances[:, 0].double()

    @property
    def isolation(self) -> Tensor:
        """How much closer the nearest training image is than the next, `[n]`.

        It is the distance to the nearest over the mean distance to the others, in [0, 1].

        A copy has 0. An image that is close to all of them, as blurred ones are, has nearly 1: the plain
        distance would take it for a copy. (After Carlini et al. 2023, "Extracting training data from
        diffusion models", section 4.)
        """
        others = self.distances[:, 1:].double().mean(1) if self.distances.shape[1] > 1 else self.closest
        return torch.where(self.closest > 0, self.closest / others.clamp_min(1e-30), 0.0)


def closer(generated: Tensor, real: Tensor) -> Estimate:
    """Return how often generated images are closer to training images than real ones.

    The real ones were not learnt from. 0.5 means no closer; 1 means that all are copies.

    generated, real: distances to the nearest training image, `[n]` and `[m]`. The Mann-Whitney statistic of
    the two samples, ties by half: the data-copying test of Meehan, Chaudhuri and Dasgupta 2020, section 3.
    """
    return roc_area(-generated.double(), -real.double())


def roc_area(positives: Tensor, negatives: Tensor) -> Estimate:
    """Return the area below the ROC curve.

    It is the chance that a positive scores higher than a negative; ties count half.

    The influences are DeLong's placements (DeLong et al. 1988, equation 5).
    """
    placements = _share_below(positives, negatives)
    influences = placements, 1 - _share_below(negatives, positives)
    return Estimate(float(placements.mean()), influences, least=0.0, most=1.0)


def rate_at(positives: Tensor, negatives: Tensor, share: float = RARE) -> Estimate:
    """Return the share of positives above the highest `share` of negatives.

    The true positive rate at that false positive rate; `expected_rate` says what it is where all are drawn
    alike. The influence of the negatives is that of the threshold that they set, by the slope of the ROC
    curve between half and twice as many alarms.
    """
    positives, highest = positives.double(), negatives.double().sort(descending=True).values
    alarms = _alarms(len(negatives), share)
    hits = positives >= highest[alarms - 1]

    def above(count: int) -> tuple[float, float]:
        if not count:
            return 0.0, 0.0
        threshold = highest[min(count, len(highest)) - 1]
        found = ((positives >= threshold).double(), (highest >= threshold).double())
        return float(found[0].mean()), float(found[1].mean())

    wide, narrow = above(2 * alarms), above(alarms // 2)
    run, rise = wide[1] - narrow[1], wide[0] - narrow[0]
    slope = rise / run if run > 0 else 0.0
    return share_of(hits, -slope * (highest >= highest[alarms - 1]).double())


def expected_rate(negatives: int, share: float = RARE) -> float:
    """Return what `rate_at` is on average where both sides are alike.

    It is at most `share`, or 1/(m + 1) for few negatives.
    """
    return _alarms(negatives, share) / (negatives + 1)


def _alarms(negatives: int, share: float) -> int:
    """How many of the negatives lie above the threshold: a whole number, and at least one."""
    return max(1, math.floor(share * (negatives + 1) + 1e-9))


def repeats(keys: NDArray[np.uint64]) -> Estimate:
    """Return the share of images that are equal to an earlier one.

    keys: one number per image; equal images have equal ones.
    """
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return share_of(torch.from_numpy(~first))


def contained(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> Estimate:
    """Return the share of images that are equal to a known one."""
    return share_of(torch.from_numpy(np.isin(keys, known)))


def crowding(points: Rows) -> Tensor:
    """Return the distance of each image to the nearest other, `[n]`."""
    return nearest(points, points, 1, skip_self=True)[0][:, 0].double()


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of others that lie below it, equal ones by half: float64 `[n]` in [0, 1]."""
    ordered, values = others.double().sort().values, values.double()
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above).double() / (2 * len(ordered))
