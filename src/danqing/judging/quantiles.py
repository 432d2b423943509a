"""Quantiles and tail probabilities of a few distributions, with NumPy alone."""

import functools
import math
from statistics import NormalDist

_NORMAL = NormalDist()
_AS_NORMAL = 1000  # degrees of freedom


def normal_quantile(probability: float) -> float:
    """Return a quantile of the standard normal distribution."""
    return _NORMAL.inv_cdf(probability)


def normal_tail(value: float) -> float:
    """Return the two-sided p-value of a standard normal number."""
    return math.erfc(abs(value) / math.sqrt(2))


@functools.cache
def student_quantile(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t distribution.

    degrees: a whole number, at least 1, or infinity.
    """
    if degrees > _AS_NORMAL:
        return normal_quantile(probability)
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while _student_within(high, int(degrees)) < 2 * probability - 1:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _student_within(middle, int(degrees)) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def _student_within(value: float, degrees: int) -> float:
    """Return the probability of [-value, value] (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(degrees))
    term, total = 1.0, 0.0
    if degrees % 2:
        for power in range(1, degrees - 1, 2):
            term *= math.cos(angle) if power == 1 else math.cos(angle) ** 2 * (power - 1) / power
            total += term
        return 2 / math.pi * (angle + math.sin(angle) * total)
    for power in range(0, degrees - 1, 2):
        term *= 1.0 if power == 0 else math.cos(angle) ** 2 * (power - 1) / power
        total += term
    return math.sin(angle) * total


def chi_square_tail_of_3(value: float) -> float:
    """Return the p-value of a chi-square number of 3 degrees of freedom."""
    return math.erfc(math.sqrt(value / 2)) + math.sqrt(2 * value / math.pi) * math.exp(-value / 2)
