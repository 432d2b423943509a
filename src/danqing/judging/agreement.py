"""Agreement of raters: Krippendorff's alpha."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.judging.votes import Ints


class Agreement(NamedTuple):
    """Krippendorff's alpha: 1 for full agreement, 0 for what chance gives.

    units: how many questions were answered by two raters or more; alpha is NaN without any.
    """

    alpha: float
    units: int


def krippendorff(
    units: Ints, values: NDArray[np.float64], *, distance: Literal["nominal", "interval"] = "nominal"
) -> Agreement:
    """Return the agreement of answers (Krippendorff 2018).

    units: `[n]`, the question that each answer is about; each of its raters answered it once.
    values: `[n]`, the answers.
    distance: whether two answers only differ or not, or differ by the square of their difference.
    """
    _, unit, counts = np.unique(units, return_inverse=True, return_counts=True)
    kept = counts[unit] > 1
    if not kept.any():
        return Agreement(float("nan"), 0)
    _, unit = np.unique(unit[kept], return_inverse=True)
    levels, level = np.unique(values[kept], return_inverse=True)
    table = np.zeros((unit.max() + 1, len(levels)))
    np.add.at(table, (unit, level), 1)
    apart = levels[:, None] - levels[None, :]
    cost = (apart != 0).astype(float) if distance == "nominal" else apart**2
    size, total = table.sum(axis=1), table.sum(axis=0)
    observed = float((np.einsum("ua,ab,ub->u", table, cost, table) / (size - 1)).sum() / size.sum())
    expected = float(total @ cost @ total) / (size.sum() * (size.sum() - 1))
    return Agreement(1 - observed / expected if expected else 1.0, len(table))
