"""Fréchet distance: how far apart two sets of features lie when each is taken for a Gaussian.

FD = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)    (Heusel et al. 2017, equation 6; Dowson and Landau 1982)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.feature_rows import Selected, check_comparable, tiles
from danqing.randomness import generator

_BLOCKS = 4
_STRIP = 512
_EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The mean `[d]` and the covariance `[d, d]` of rows, float64.

    count: how many rows there were. The covariance is divided by count - 1.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, rows: Rows) -> "Moments":
        """Return the moments of rows `[n, d]`, which are read once.

        Raises EvaluationError for fewer than two.
        """
        if rows.shape[0] < 2:
            raise EvaluationError("A Fréchet distance needs at least two images on either side: add images.")
        sums = _Sums(rows.shape[1])
        for _, tile in tiles(rows):
            sums.add(tile)
        return sums.moments()


class _Sums:
    """A running mean and scatter, numerically stable (Chan, Golub and LeVeque 1983, equation 2.1).

    Only the upper triangle of the scatter is kept up.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self.scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        mean = rows.mean(0)
        rows = rows - mean
        for first in range(0, len(mean), _STRIP):
            strip = slice(first, first + _STRIP)
            self.scatter[strip, first:].addmm_(rows[:, strip].T, rows[:, first:])
        self._shift(len(rows), mean)

    def join(self, other: "_Sums") -> None:
        self.scatter += other.scatter
        self._shift(other.count, other.mean)

    def _shift(self, count: int, mean: Tensor) -> None:
        total = self.count + count
        step = mean - self.mean
        self.scatter.addr_(step, step, alpha=self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def moments(self) -> Moments:
        scatter = self.scatter.triu() + self.scatter.triu(1).T
        return Moments(self.count, self.mean, scatter / (self.count - 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Response:
    """How the distance answers to the weight of each row x: |x-μ|² + 2 (x-μ)·step - |(x-μ) W|².

    W Wᵀ is the optimal transport map between the Gaussians, which is twice the derivative of tr (Σ₁ Σ₂)^½ by
    either covariance; where that is singular, within its range. In the precision of the features themselves:
    an interval asks for no more.
    """

    centre: Tensor
    step: Tensor
    transport: Tensor

    def of(self, rows: Tensor) -> Tensor:
        rows = rows.float() - self.centre.float()
        kept = rows.square().sum(1) + 2 * (rows @ self.step.float())
        return (kept - (rows @ self.transport.float()).square_().sum(1)).double()

    def of_all(self, rows: Rows) -> Tensor:
        return torch.cat([self.of(tile) for _, tile in tiles(rows)])


def frechet_distance(generated: Rows, reference: Rows) -> Estimate:
    """Return the Fréchet distance of two sets of features.

    generated, reference: `[n, d]` and `[m, d]`. The distance is at least 0; smaller is better.

    Biased upwards, by about c/n + c'/m: compare only values of equal n and m. Raises EvaluationError for
    fewer than two rows or unequal dimensions. Rows are read twice: for the value, and for its influences.
    """
    check_comparable(generated, reference)
    value, of_generated, of_reference = _compare(Moments.of(generated), Moments.of(reference))
    influences = of_generated.of_all(generated), of_reference.of_all(reference)
    return Estimate(value, influences, least=0.0)


def frechet_distance_of_moments(generated: Moments, reference: Moments) -> float:
    """Return the Fréchet distance from moments alone."""
    first, second = sorted((generated, reference), key=lambda moments: moments.count)
    root, _ = _root(first.covariance)
    return _value(first, second, torch.linalg.eigvalsh(root.T @ second.covariance @ root))


def frechet_distance_per_class(
    generated: Rows,
    generated_labels: NDArray[np.int64],
    reference: Rows,
    reference_labels: NDArray[np.int64],
) -> dict[int, Estimate]:
    """Return the Fréchet distance within each label.

    Labels are `[n]` and `[m]`. A label needs at least two rows on either side.
    """
    result = {}
    for label in np.intersect1d(generated_labels, reference_labels).tolist():
        ours, real = np.flatnonzero(generated_labels == label), np.flatnonzero(reference_labels == label)
        if label >= 0 and min(len(ours), len(real)) >= 2:
            result[label] = frechet_distance(Selected(generated, ours), Selected(reference, real))
    return result


def extrapolated_frechet_distance(generated: Rows, reference: Rows, *, seed: int) -> Estimate:
    """Return the Fréchet distance extrapolated to infinitely many generated images.

    This is FID∞ (Chong and Forsyth 2020).

    A line in 1/n through the distances of all images, of the two halves and of the four quarters (each
    averaged; which image is in which follows from `seed`), read at 0. The bias of a finite reference stays.
    The bias is a line in 1/n only where a quarter still has more images than the features have dimensions.
    Can lie below 0. Raises EvaluationError for fewer than eight generated rows.
    """
    check_comparable(generated, reference)
    count, dimensions = generated.shape
    if count < 2 * _BLOCKS:
        raise EvaluationError(
            f"To extrapolate a Fréchet distance takes at least {2 * _BLOCKS} images, and there are {count}: "
            "generate more."
        )
    block_of = torch.randperm(count, generator=generator(seed, "frechet-infinity")) % _BLOCKS
    blocks = [_Sums(dimensions) for _ in range(_BLOCKS)]
    for start, tile in tiles(generated):
        inside = block_of[start : start + len(tile)]
        for number, sums in enumerate(blocks):
            if bool((inside == number).any()):
                sums.add(tile[inside == number])
    real = Moments.of(reference)
    value, shares = 0.0, _intercept_weights([_BLOCKS // groups for groups in (4, 2, 1)])
    of_generated = torch.zeros(count, dtype=torch.float64)
    of_reference = torch.zeros(reference.shape[0], dtype=torch.float64)
    for groups, share in zip((4, 2, 1), shares, strict=True):
        for group in range(groups):
            members = range(group, _BLOCKS, groups)
            joined = _Sums(dimensions)
            for member in members:
                joined.join(blocks[member])
            distance, ours, theirs = _compare(joined.moments(), real)
            value += share * distance / groups
            inside = block_of % groups == group
            part = torch.cat([ours.of(tile) for _, tile in tiles(Selected(generated, _where(inside)))])
            of_generated[inside] += share * (part - part.mean())
            of_reference += share / groups * theirs.of_all(reference)
    return Estimate(value, (of_generated, of_reference))


def _where(mask: Tensor) -> NDArray[np.int64]:
    return np.flatnonzero(mask.numpy()).astype(np.int64)


def _intercept_weights(sizes: list[int]) -> list[float]:
    """What each distance weighs in the value at 1/n = 0 of their least-squares line in 1/n."""
    x = torch.tensor([1 / size for size in sizes], dtype=torch.float64)
    spread = x - x.mean()
    weights: list[float] = (1 / len(sizes) - x.mean() * spread / spread.square().sum()).tolist()
    return weights


def _compare(first: Moments, second: Moments) -> tuple[float, _Response, _Response]:
    """The distance, and how it answers to the rows of either side."""
    if first.count > second.count:
        value, of_second, of_first = _compare(second, first)
        return value, of_first, of_second
    root, undo = _root(first.covariance)
    squares, rotation = torch.linalg.eigh(root.T @ second.covariance @ root)
    fourth = squares.clamp_min(0).sqrt().sqrt()
    step = first.mean - second.mean
    of_first = _Response(first.mean, step, undo(rotation * fourth))
    sure = squares > squares.norm() * len(squares) * _EPSILON
    of_second = _Response(second.mean, -step, root @ (rotation[:, sure] / fourth[sure]))
    return _value(first, second, squares), of_first, of_second


def _root(covariance: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """R `[d, r]` with Σ = R Rᵀ of rank r, and the product of a matrix `[r, k]` with the pseudo-inverse of Rᵀ.

    Rᵀ Σ₂ R has the eigenvalues of Σ Σ₂; cut to its rank, so that the rounding of eigenvalues that are 0 does
    not enter the sum of their roots.
    """
    lower, failed = torch.linalg.cholesky_ex(covariance)
    pivots = lower.diagonal().square()
    if not failed and bool(pivots.min() > 1e-9 * pivots.max()):
        return lower, lambda matrix: torch.linalg.solve_triangular(lower.T, matrix, upper=True)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.norm() * len(values) * _EPSILON
    directions, spreads = vectors[:, kept], values[kept].sqrt()
    return directions * spreads, lambda matrix: directions / spreads @ matrix


def _value(first: Moments, second: Moments, squares: Tensor) -> float:
    overlap = squares.clamp_min(0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * overlap
    value = float((first.mean - second.mean).square().sum() + spread)
    if not math.isfinite(value):
        raise EvaluationError(
            "The Fréchet distance is not finite: check the images, the feature network and its precision."
        )
    return max(0.0, value)  # rounding may take it below
