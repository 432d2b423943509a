"""How well scores tell positives from negatives: the ROC area, and the true rate at few false alarms."""

import math

import torch
from torch import Tensor

from danqing.evaluation.estimate import Estimate, share_of

RARE = 0.01
"""The share of false alarms that is called few."""


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


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of others that lie below it, equal ones by half: float64 `[n]` in [0, 1]."""
    ordered, values = others.double().sort().values, values.double()
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above).double() / (2 * len(ordered))
