"""Images that resemble no others: their neighbours in the space of features are far away."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.evaluation.contract import Rows
from danqing.evaluation.feature_rows import tiles
from danqing.evaluation.neighbours import nearest
from danqing.randomness import generator
from danqing.recognition.outside import root_normalized

_NEIGHBOURS = 10
_DIRECTIONS = 256
_FAR, _UNUSUAL = 1.2, 2.5
"""An outlier is this many times as far from its neighbours as usual, and this many deviations."""
_MOST = 0.02
"""At most this share of the images is reported."""


class Outliers(NamedTuple):
    """Images that resemble no others, the strangest first.

    rows: int64 `[m]`. ratios: float32 `[m]`, the distance to their neighbours over the median distance.
    """

    rows: NDArray[np.int64]
    ratios: NDArray[np.float32]


def find_outliers(features: Rows) -> Outliers:
    """Find images whose neighbours are far away.

    features: `[n, d]`. The distance of an image is that to its tenth neighbour (Ramaswamy, Rastogi and Shim
    2000), or a nearer one in a small set.
    """
    count = features.shape[0]
    k = min(_NEIGHBOURS, count // 4)
    if k < 1:
        return Outliers(np.empty(0, np.int64), np.empty(0, np.float32))
    points = _directions(features)
    distances = nearest(points, points, k, skip_self=True)[0][:, -1].numpy()
    ratios = distances / max(float(np.median(distances)), 1e-12)
    logs = np.log(np.maximum(ratios, 1e-6))
    deviation = 1.4826 * float(np.median(np.abs(logs)))
    worst = np.argsort(-ratios, kind="stable")[: max(1, round(_MOST * count))]
    worst = worst[(ratios[worst] > _FAR) & (logs[worst] > _UNUSUAL * deviation)]
    return Outliers(worst.astype(np.int64), ratios[worst].astype(np.float32))


def _directions(features: Rows) -> Tensor:
    """Return the directions of features, along which strange images are far away, `[n, 256]` or less.

    A strange image has few strong features, so by their values it would be near the mean. Roots keep the
    strongest from deciding alone, and a random projection keeps distances (Johnson and Lindenstrauss 1984).
    """
    size = features.shape[1]
    projection = torch.eye(size)
    if size > _DIRECTIONS:
        projection = torch.randn(size, _DIRECTIONS, generator=generator(0, "directions")) / _DIRECTIONS**0.5
    return torch.cat([root_normalized(tile) @ projection for _, tile in tiles(features)])
