"""Optimal transport: which noise belongs to which image, so that a flow's paths cross less.

Paths of independent pairs cross, and a velocity averages over what crosses. Pairs of least squared distance
cross less, so that fewer steps follow the flow (Tong et al. 2024; Pooladian et al. 2023). |x − ε|² is least
where ⟨x, ε⟩ is largest, since the other terms do not depend on the pairs.

- "minibatch" pairs the noise and the images of one batch.
- "semidiscrete" pairs all noise with all images of a data set (Mousavi-Hosseini et al. 2025, "Flow matching
  with semidiscrete couplings"). Noise ε belongs to the image arg max_j ⟨ε, x_j⟩ + ψ_j. The potentials ψ make
  every image belong to equally much noise, and are those of optimal transport (Genevay et al. 2016, section
  4). Here noise comes first, and says which images a step learns from.

Both are for models without a condition: under one, noise would follow from the label, and noise that is drawn
independently of the label when sampling would be noise that the model has not seen with it.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.families.base import Batch

Transport = Literal["none", "minibatch", "semidiscrete"]

DRAWS_PER_POINT = 16
FEWEST_DRAWS = 2**16
MOST_PRODUCTS = 2**39
SOFTNESS = 0.6
"""The temperature at which noise chooses when fitting begins, in units of the step length."""

_SCORES_AT_ONCE = 2**24
_DRAWS_AT_ONCE = 256
_FINE, _COARSE = 16, 8
"""Rows and columns to which images are reduced: of few images, and of more than _FEW."""
_FEW = 2**14
_LEAST_DISTANCE = 1e-6
_UNEVENNESS_DRAWS = 70
"""Times √N; the estimate then has a standard deviation of about √2 / 70."""


def noise_for(transport: Transport, batch: Batch, rng: torch.Generator, scale: float = 1.0) -> Tensor:
    """Return the noise that belongs to the images of a batch.

    It is normal, `[n, c, h, w]`.
    transport: with "semidiscrete", the noise came with the batch.
    scale: the standard deviation of noise that did not.
    rng: on the batch's device.
    """
    if transport == "semidiscrete":
        if batch.noise is None:
            raise ValueError("the images of this batch were not chosen by noise")
        return batch.noise
    images = batch.images
    noise = torch.randn(images.shape, generator=rng, device=images.device) * scale
    return noise if transport == "none" else noise[closest(images, noise)]


def closest(images: Tensor, noise: Tensor) -> Tensor:
    """Return which noise belongs to each image.

    The squared distances add up to the least.
    images, noise: `[n, ...]`. Returns a permutation, int64 `[n]`.
    """
    products = images.detach().float().flatten(1) @ noise.flatten(1).T
    rows = assignment(-products.double().cpu().numpy())
    return torch.from_numpy(rows).to(images.device)


def assignment(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column of each row `[n]`, at the least cost.

    The costs are `[n, n]`, and each column is used once.
    Shortest augmenting paths, O(n³) (Jonker and Volgenant 1987; Crouse 2016, section III).
    """
    n = len(costs)
    of_rows, of_columns = np.zeros(n), np.zeros(n + 1)  # dual values
    owner = np.full(n + 1, -1)  # the row of each column; column n is where a path begins
    for row in range(n):
        owner[n], column = row, n
        reached, shortest = np.zeros(n + 1, bool), np.full(n, np.inf)
        before = np.full(n, n)
        while owner[column] >= 0:
            reached[column] = True
            lengths = costs[owner[column]] - of_rows[owner[column]] - of_columns[:n]
            shorter = ~reached[:n] & (lengths < shortest)
            shortest[shorter], before[shorter] = lengths[shorter], column
            left = np.where(reached[:n], np.inf, shortest)
            column = int(left.argmin())
            step = left[column]
            of_rows[owner[reached]] += step
            of_columns[reached] -= step
            shortest[~reached[:n]] -= step
        while column != n:
            owner[column], column = owner[before[column]], int(before[column])
    return np.argsort(owner[:n])


def side_for(count: int) -> int:
    """Return the side to which the images are reduced.

    It is the number of rows and of columns. The work grows with the square of their number.
    """
    return _FINE if count <= _FEW else _COARSE


def reduced(images: Tensor, side: int) -> Tensor:
    """Return the coefficients of images in an orthonormal basis of blocks.

    They are `[n, d]`, of images or noise `[n, c, h, w]`.
    Each block is a rectangle of pixels of one channel; there are at most `side` rows and columns of them.
    Coefficients of standard normal noise are standard normal, and their products with those of images are
    the products of the noise with the blocks' means.
    """
    size = [math.ceil(length / side) for length in images.shape[2:]]

    def sums(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, size, ceil_mode=True, divisor_override=1)

    pixels = sums(torch.ones(1, 1, *images.shape[2:], device=images.device))
    return (sums(images.float()) / pixels.sqrt()).flatten(1)


def assign(noise: Tensor, points: Tensor, potentials: Tensor) -> Tensor:
    """Return which point each noise chooses, int64 `[n]`.

    It is arg max_j ⟨ε, x_j⟩ + ψ_j for noise ε.
    noise: `[n, d]`. points: `[N, d]`, of all images. potentials: `[N]`.
    """
    count = max(1, _SCORES_AT_ONCE // len(noise))
    best, chosen = None, None
    for first in range(0, len(points), count):
        part = slice(first, first + count)
        scores = torch.addmm(potentials[part], noise, points[part].T)
        values, places = scores.max(1)
        if best is None or chosen is None:
            best, chosen = values, places
        else:
            better = values > best
            best, chosen = torch.where(better, values, best), torch.where(better, places + first, chosen)
    assert chosen is not None
    return chosen


def fit_potentials(
    points: Tensor,
    shares: Tensor,
    rng: torch.Generator,
    *,
    draws: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Fit potentials `[N]`, so that noise chooses each point often enough.

    The noise is standard normal, and each point has its share.
    Averaged stochastic gradient ascent on the semidual of optimal transport (Genevay et al. 2016, algorithm
    2): the gradient of ψ_j is the share that j should have, less the share of noise that chooses j. Noise
    first chooses softly, by a softmax whose temperature falls to 0, so that few draws teach much of the
    points that are rarely chosen. The result follows from the generator, the points and the number of
    threads.
    points: `[N, d]` float32, of all images.
    shares: `[N]`, how often each point should be chosen; they add up to 1.
    rng: on the device of the points.
    draws: of noise. By default DRAWS_PER_POINT for each point and at least FEWEST_DRAWS, or fewer where the
        products would take more than MOST_PRODUCTS multiplications.
    on_progress: called with steps done and steps in all.
    """
    count, dimensions = points.shape
    if draws is None:
        fitting = max(count, MOST_PRODUCTS // points.numel())
        draws = min(max(DRAWS_PER_POINT * count, FEWEST_DRAWS), fitting)
    at_once = max(1, min(_DRAWS_AT_ONCE, _SCORES_AT_ONCE // count))
    steps, average = math.ceil(draws / at_once), torch.zeros(count, device=points.device)
    potentials, length = _of_gaussian(points), _length(points)
    scores = torch.empty(at_once, count, device=points.device)
    damping = min(1, count / (4 * at_once))  # of a step in which many draws choose few points
    for step in range(steps):
        noise = torch.randn(at_once, dimensions, generator=rng, device=points.device)
        rounds = 1 + step * damping * at_once / count
        rate, sharpness = length / math.sqrt(rounds), rounds / (SOFTNESS * length)
        # A softmax in place: these are the largest tensors, and new memory costs more than the arithmetic.
        torch.addmm(potentials, noise, points.T, beta=sharpness, alpha=sharpness, out=scores)
        weights = scores.sub_(scores.amax(1, keepdim=True)).exp_()
        chosen = weights.sum(1).reciprocal() @ weights
        potentials = potentials + damping * rate * (at_once * shares - chosen)
        if 2 * step >= steps - 1:
            average = average + potentials
        on_progress(step + 1, steps)
    return average / ((steps + 1) // 2)


def unevenness(points: Tensor, shares: Tensor, potentials: Tensor, rng: torch.Generator) -> float:
    """Estimate how far the shares of points are from their targets.

    The estimate is without bias: how often noise chooses points, against how often it should.
    It is the χ² divergence Σ_j p_j²/q_j − 1 of the shares p_j of noise from those that it should have, q_j. 0
    is exact. At 0.01, the shares are off by a tenth (the square root) of themselves.
    """
    count = len(points)
    draws = math.ceil(_UNEVENNESS_DRAWS * math.sqrt(count))
    found = torch.zeros(count, dtype=torch.float64)
    for first in range(0, draws, _DRAWS_AT_ONCE):
        shape = min(_DRAWS_AT_ONCE, draws - first), points.shape[1]
        noise = torch.randn(shape, generator=rng, device=points.device)
        found += torch.bincount(assign(noise, points, potentials), minlength=count).cpu()
    pairs = (found * (found - 1) / shares.cpu()).sum()
    return float(pairs) / (draws * (draws - 1)) - 1


def _of_gaussian(points: Tensor) -> Tensor:
    """Return the potentials of Gaussian data with a wider covariance, close to where the ascent ends.

    Between N(0, I) and N(μ, Σ) the map of optimal transport is μ + Σ^½·ε, and its potential at x is
    −½·(x−μ)·Σ^(−½)·(x−μ). Few points in many dimensions are further apart than a density would be, which the
    largest variance, added to all, makes up for.
    """
    centred = points - points.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(points))
    widened = (variances + variances[-1]).clamp_min(torch.finfo(points.dtype).tiny)
    quadratic: Tensor = ((centred @ directions).square() / widened.sqrt()).sum(1)
    return -quadratic / 2


def _length(points: Tensor) -> float:
    """Return the change of a potential that makes its point about e times as likely.

    Scores ⟨ε, x_j⟩ are normal with deviation |x_j − μ|, and the largest of N lies at √(2·log N) deviations.
    """
    distances = (points - points.mean(0)).norm(dim=1)
    return max(float(distances.mean()), _LEAST_DISTANCE) / math.sqrt(2 * math.log(max(len(points), 2)))
