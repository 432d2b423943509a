"""Kernel distance: the squared maximum mean discrepancy of two sets of features, unbiased."""

import torch
from torch import Tensor

from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.feature_rows import check_comparable, tiles


def kernel_distance(generated: Rows, reference: Rows, *, block: int = 1000) -> Estimate:
    """Return the squared MMD of two sets of features; 0 is best.

    generated, reference: `[n, d]` and `[m, d]`. The kernel is k(x, y) = (x·y/d + 1)³.

    KID (Bińkowski et al. 2018, section 4; the unbiased estimator is Gretton et al. 2012, equation 3): right
    on average whatever n and m are, so it may come out below 0. Every pair of images counts, rather than the
    pairs within random subsets of the usual way: the same expectation, the least variance that an unbiased
    estimator can have, and nothing random. `block` rows of either side are held at once; it changes nothing
    else. Raises EvaluationError for fewer than two rows or unequal dimensions.
    """
    check_comparable(generated, reference)
    of_generated, of_reference = _within(generated, block), _within(reference, block)
    ours_to_real, real_to_ours = _between(generated, reference, block)
    value = of_generated.mean() + of_reference.mean() - 2 * ours_to_real.mean()
    return Estimate(float(value), (2 * (of_generated - ours_to_real), 2 * (of_reference - real_to_ours)))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """`[n, d]` and `[m, d]` to `[n, m]`."""
    products = torch.addmm(torch.ones((), dtype=torch.float64), a, b.T, alpha=1 / a.shape[1])
    return products.square().mul_(products)


def _within(rows: Rows, block: int) -> Tensor:
    """The mean kernel of each row with all others, `[n]`; each pair of tiles is met once."""
    count = rows.shape[0]
    sums = torch.zeros(count, dtype=torch.float64)
    for start, tile in tiles(rows, block):
        here = tile.double()
        for other, there in tiles(rows, block, first=start):
            values = _kernel(here, there.double())
            if other == start:
                values.fill_diagonal_(0)
            else:
                sums[other : other + len(there)] += values.sum(0)
            sums[start : start + len(here)] += values.sum(1)
    return sums / (count - 1)


def _between(first: Rows, second: Rows, block: int) -> tuple[Tensor, Tensor]:
    """The mean kernel of each row with all of the other side, `[n]` and `[m]`."""
    n, m = first.shape[0], second.shape[0]
    of_first, of_second = torch.zeros(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for start, tile in tiles(first, block):
        here = tile.double()
        for other, there in tiles(second, block):
            values = _kernel(here, there.double())
            of_first[start : start + len(here)] += values.sum(1)
            of_second[other : other + len(there)] += values.sum(0)
    return of_first / m, of_second / n
