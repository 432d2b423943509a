"""When a contest is decided: with intervals that hold at every moment, so that looking early is allowed."""

import math
from itertools import combinations

from danqing.judging.quantiles import student_quantile
from danqing.judging.ratings import Ratings

ERROR = 0.25
"""The standard error of a difference, in log-odds, for which the intervals are narrowest."""
LEVEL = 0.95
FEWEST_RATERS = 3
FEWEST_VOTES = 20
"""Before that many votes per contestant the normal approximation is not trusted."""


def half_width(error: float, level: float = LEVEL) -> float:
    """Return half of the width of an interval that always holds.

    It may be looked at after every vote.

    error: the standard error of the estimate.

    All intervals of a contest together cover the truth with the probability `level`: the boundary of a
    mixture of normal distributions (Robbins 1970; Howard et al. 2021, equation 14), in the time that the
    information of the votes gives.
    """
    if not error or not math.isfinite(error):
        return math.inf
    alpha, time = 1 - level, error**-2
    best = ERROR**-2 / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    return error * math.sqrt((1 + best / time) * (math.log1p(time / best) + 2 * math.log(1 / alpha)))


def parted(ratings: Ratings, first: int, second: int, level: float = LEVEL) -> bool:
    """Return whether two ratings differ.

    One may look after every vote, and at the pair that differs most.
    """
    k = len(ratings.values)
    if ratings.raters < FEWEST_RATERS or ratings.votes < FEWEST_VOTES * k:
        return False
    value, error = ratings.difference(first, second)
    each = 1 - (1 - level) / math.comb(k, 2)  # Bonferroni: any pair may be the one
    few = student_quantile((1 + each) / 2, ratings.degrees) / student_quantile((1 + each) / 2, math.inf)
    return abs(value) > few * half_width(error, each)


def is_decided(ratings: Ratings, level: float = LEVEL) -> bool:
    """Return whether all ratings differ."""
    return all(parted(ratings, a, b, level) for a, b in combinations(range(len(ratings.values)), 2))
