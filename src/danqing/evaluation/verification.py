"""Verification: whether two images show the same thing, by how alike their vectors are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.roc import roc_area
from danqing.randomness import generator

FEWEST_FALSE = 1
"""A threshold lets at least this many of the different pairs pass, or the data has too few of them."""


@dataclass(frozen=True, slots=True)
class Roc:
    """How often pairs match by mistake, and are missed, at each threshold of their similarity.

    same, different: the similarities of pairs that show the same thing, and of the others, ascending.
    """

    same: Tensor
    different: Tensor

    @classmethod
    def of(cls, similarities: Tensor, same: Tensor) -> "Roc":
        """Sort pairs by their similarity.

        similarities: `[n]`. same: which pairs show the same thing, bool `[n]`.
        Raises EvaluationError where all or none do.
        """
        same = same.bool()
        if not bool(same.any()) or bool(same.all()):
            raise EvaluationError("Verification needs pairs that show the same thing, and others: give both.")
        values = similarities.double()
        if not bool(values.isfinite().all()):
            raise EvaluationError("Some similarities are not finite: check the images and the encoder.")
        return cls(values[same].sort().values, values[~same].sort().values)

    def threshold(self, false_match_rate: float) -> float:
        """Return the lowest similarity at which at most this share of different pairs match.

        Raises EvaluationError where there are too few different pairs to measure such a rate.
        """
        count = len(self.different)
        if not 0 < false_match_rate < 1:
            raise EvaluationError(f"A false-match rate is between 0 and 1, not {false_match_rate:g}.")
        allowed = int(false_match_rate * count + 1e-9)
        if allowed < FEWEST_FALSE:
            needed = int(-(-FEWEST_FALSE // false_match_rate))
            raise EvaluationError(
                f"A false-match rate of {false_match_rate:g} cannot be measured on {count:,} different "
                f"pairs: give at least {needed:,}, or choose a higher rate."
            )
        highest_rejected = self.different[count - allowed - 1]
        return float(torch.nextafter(highest_rejected, torch.tensor(torch.inf, dtype=torch.float64)))

    def false_matches(self, threshold: float) -> Estimate:
        """Return the share of different pairs that match, since they are at least this similar."""
        return share_of(self.different >= threshold)

    def matches(self, threshold: float) -> Estimate:
        """Return the share of same pairs that match."""
        return share_of(self.same >= threshold)

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return false-match rates and match rates at all thresholds, from 0 to 1, float64 `[t]` each."""
        values = torch.cat([self.same, self.different]).unique().flip(0)
        rates = [
            torch.cat([values.new_zeros(1), 1 - torch.searchsorted(kind, values).double() / len(kind)])
            for kind in (self.different, self.same)
        ]
        return rates[0], rates[1]

    def area(self) -> Estimate:
        """Return the area under the curve: how often a same pair is more similar than a different one.

        Ties count half.
        """
        return roc_area(self.same, self.different)

    def equal_error_rate(self) -> float:
        """Return the rate at which false matches are as frequent as missed pairs."""
        false, found = self.curve()
        missed = 1 - found
        after = int((false >= missed).nonzero()[0])
        if after == 0:
            return float(false[0])
        gap_before = missed[after - 1] - false[after - 1]
        gap_after = false[after] - missed[after]
        part = gap_before / (gap_before + gap_after)
        return float(torch.lerp(false[after - 1], false[after], part))


def draw_pairs(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pairs of labelled images, half of them with the same label.

    labels: `[n]`; those below 0 are unknown and not drawn. count: how many of each kind.
    Returns the rows of both images and whether their labels are the same, `[2 * count]` each.
    Raises EvaluationError where no two images have the same label, or different ones.
    """
    rng = generator(seed, "pairs")
    known = (labels >= 0).nonzero()[:, 0]
    values, sizes = labels[known].unique(return_counts=True)
    if len(values) < 2 or int(sizes.max()) < 2:
        raise EvaluationError(
            "Verification needs at least two labels, one of them with two images: label more images."
        )
    order = known[labels[known].argsort(stable=True)]
    ends = sizes.cumsum(0)
    weights = (sizes * (sizes - 1)).double()
    chosen = torch.multinomial(weights, count, replacement=True, generator=rng)
    first = (torch.rand(count, generator=rng, dtype=torch.float64) * sizes[chosen]).long()
    step = 1 + (torch.rand(count, generator=rng, dtype=torch.float64) * (sizes[chosen] - 1)).long()
    begins = ends[chosen] - sizes[chosen]
    same = torch.stack([order[begins + first], order[begins + (first + step) % sizes[chosen]]])
    one = torch.randint(len(order), (count,), generator=rng)
    group = torch.searchsorted(ends, one, right=True)
    others = len(order) - sizes[group]
    away = (torch.rand(count, generator=rng, dtype=torch.float64) * others).long()
    different = torch.stack([order[one], order[(ends[group] + away) % len(order)]])
    rows = torch.cat([same, different], dim=1)
    return rows[0], rows[1], torch.arange(2 * count) < count
