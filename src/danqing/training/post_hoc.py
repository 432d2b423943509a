"""An average of any EMA length, computed after training from a run's snapshots.

The method is that of Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3.2 and appendix C: the wanted
profile is approximated by a linear combination of the profiles of the snapshots.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.training.ema import exponent
from danqing.training.snapshots import Snapshot

_RIDGE = 1e-8
"""Keeps coefficients small where several combinations fit alike, since they multiply rounding errors."""


def reconstruct(snapshots: Sequence[Snapshot], length: float) -> dict[str, Tensor]:
    """Return the weights averaged with an EMA length up to the last of the snapshots.

    snapshots: in order of time.
    length: the standard deviation of the profile as a share of the run, in [SHORTEST, LONGEST].
    """
    last = snapshots[-1]
    if length in last.lengths:
        return {name: tensor.detach().cpu() for name, tensor in last.read()[length].items()}
    factors = iter(coefficients(averages_of(snapshots), last.images, length))
    sums: dict[str, Tensor] = {}
    signed: set[str] = set()
    for snapshot in snapshots:
        averages = snapshot.read()
        for of in snapshot.lengths:
            factor = float(next(factors))
            for name, tensor in averages[of].items():
                value = tensor.detach().to("cpu", torch.float32)
                if name in sums:
                    sums[name].add_(value, alpha=factor)
                else:
                    sums[name] = value * factor
                if name not in signed and bool((value < 0).any()):
                    signed.add(name)
    # No average of numbers from 0 up is negative, such as of variances; a combination of averages can be.
    return {name: value if name in signed else value.clamp_(min=0) for name, value in sums.items()}


def averages_of(snapshots: Sequence[Snapshot]) -> list[tuple[int, float]]:
    """Return the images seen and the length of each average in some snapshots."""
    return [(snapshot.images, length) for snapshot in snapshots for length in snapshot.lengths]


def coefficients(averages: Sequence[tuple[int, float]], images: int, length: float) -> NDArray[np.float64]:
    """Return the factors, with the sum 1, by which known averages approximate the one of another length.

    averages: for each of them, the images that had been seen and its length.
    images: how many have been seen at the end of the average that is wanted.

    EDM2 minimises the squared difference of the profiles. Here it is that of their integrals: an average is
    the first weights plus, for each later change of the weights, the change times the part of the profile
    that comes after it. With changes that are independent of each other, this is the squared error of the
    weights.
    """
    products, target, _ = _products(averages, images, length)
    count = len(averages)
    # A Lagrange multiplier keeps the sum at 1, so that weights that never change are exact.
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = products + _RIDGE * np.eye(count)
    system[count, count] = 0
    return np.asarray(np.linalg.solve(system, np.append(target, 1.0))[:count])


def error_share(averages: Sequence[tuple[int, float]], images: int, length: float) -> float:
    """Return the expected error of a reconstruction, relative to its distance from the last weights.

    Both are root mean squares over weights that change at random, at any time by as much. The arguments are
    those of `coefficients`.
    """
    factors = coefficients(averages, images, length)
    products, target, norm = _products(averages, images, length)
    error = float(factors @ products @ factors - 2 * factors @ target) + norm
    distance = 1 / (2 * exponent(length) + 3)  # the integral of the squared profile before each time
    return math.sqrt(max(error, 0.0) / distance)


def _products(
    averages: Sequence[tuple[int, float]], images: int, length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the inner products of known averages, theirs with the wanted one, and its own with itself."""
    ends = np.array([seen / images for seen, _ in averages])
    powers = np.array([exponent(of) + 1 for _, of in averages])
    end, power = np.array(1.0), np.array(exponent(length) + 1)
    known = _product(powers[:, None], ends[:, None], powers[None], ends[None])
    return known, _product(powers, ends, power, end), float(_product(power, end, power, end))


def _product(
    p: NDArray[np.float64], a: NDArray[np.float64], q: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the integral of (1 - (t/a)^p) (1 - (t/b)^q) from 0 to the smaller of `a` and `b`.

    1 - (t/a)^p is the part, after t, of the profile with the exponent p-1 that ends at a.
    """
    m = np.minimum(a, b)
    first, second = (m / a) ** p, (m / b) ** q
    value: NDArray[np.float64] = m * (1 - first / (p + 1) - second / (q + 1) + first * second / (p + q + 1))
    return value
