"""The adaptive method of Dormand and Prince (1980), of order 5, with a step size for each image."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from danqing.arrays import Array, like, maximum, per_row, rows_of, where
from danqing.errors import ModelError

Evaluate = Callable[[Array, Sequence[float]], Array]
"""From x `[n, ...]` and one time for each image to dx/dt `[n, ...]`."""

MOST_ATTEMPTS = 1000
_STAGES: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def follow(
    evaluate: Evaluate, x: Array, times: Sequence[float], tolerance: float
) -> Iterator[tuple[int, Array]]:
    """Follow a velocity from x at `times[0]` to `times[-1]`.

    Yields how many of the steps between `times` are done, and x by then.
    x: `[n, ...]`. times: as of `samplers.integrate`. tolerance: of the error of one step.
    Raises ModelError where the tolerance cannot be met.

    The control is the elementary one (Hairer, Nørsett and Wanner, section II.4). It runs in Python floats,
    and each error is summed by itself, so that neither depends on the batch. An image that has arrived stays
    as it is.

    Where the end is 1, the last step returns the predicted image at 1−t = tolerance, since the velocity has
    no value at 1. For Gaussian data of any variance, that is off by less than 0.3 · tolerance.
    """
    start, last = float(times[0]), float(times[-1])
    end = max(1 - tolerance, start) if last >= 1 else last
    sign = math.copysign(1.0, end - start)
    t, size = [start] * len(x), [abs(float(times[1]) - start)] * len(x)
    velocity, attempts = evaluate(x, t), 0
    while any(moment != end for moment in t):
        left = [abs(end - moment) for moment in t]
        lengths = [min(one, rest) for one, rest in zip(size, left, strict=True)]
        found, slopes, error = _try_step(evaluate, x, velocity, t, [sign * one for one in lengths])
        errors = _norms(error, x, found, tolerance)
        attempts += 1
        if attempts > MOST_ATTEMPTS or not all(map(math.isfinite, errors)):
            raise ModelError(
                f"The adaptive sampler cannot follow this model to a tolerance of {tolerance:g}: "
                "choose a larger tolerance, or another sampler."
            )
        fits = [value <= 1 for value in errors]
        x, velocity = where(fits, found, x), where(fits, slopes, velocity)
        for image, (length, rest, value) in enumerate(zip(lengths, left, errors, strict=True)):
            if value <= 1:
                t[image] = end if length == rest else t[image] + sign * length
            size[image] = length * min(max(0.9 * max(value, 1e-10) ** -0.2, 0.2), 5.0)
        reached = min(sign * moment for moment in t)
        yield sum(sign * float(moment) <= reached for moment in times[1:]), x
    if last >= 1:
        yield len(times) - 1, x + (1 - end) * velocity


def _try_step(
    evaluate: Evaluate, x: Array, velocity: Array, t: Sequence[float], lengths: Sequence[float]
) -> tuple[Array, Array, Array]:
    """Try one step of each image; return x at its end, the velocity there, and the estimated error.

    velocity: at x, which is the last of the step before.
    lengths: of each image's step; 0 for those that stay.
    """
    length, slopes, found = per_row(like(lengths, x), x), [velocity], x
    for weights in _STAGES:
        found = x + length * _weighted(weights, slopes)
        share = sum(weights)
        moments = [moment + share * one for moment, one in zip(t, lengths, strict=True)]
        slopes.append(evaluate(found, moments))
    return found, slopes[-1], length * _weighted(_ERROR, slopes)


def _weighted(weights: Sequence[float], tensors: Sequence[Array]) -> Array:
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total = total + weight * tensor
    return total


def _norms(error: Array, before: Array, after: Array, tolerance: float) -> list[float]:
    """Return each image's error in units of the tolerance, as a root mean square."""
    scaled = error / (tolerance + tolerance * maximum(abs(before), abs(after)))
    return [math.sqrt(float(np.square(row).mean())) for row in rows_of(scaled)]
