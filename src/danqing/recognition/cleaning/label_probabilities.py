"""The probability of each label for each image, by a model that did not learn from that image."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.evaluation.contract import Rows
from danqing.evaluation.feature_rows import tiles

_STRENGTHS = tuple(10.0**power for power in (-2.5, -2, -1.5, -1, -0.5, 0, 0.5))
"""Ridge penalties that are tried, in units of the mean sum of squares along an axis."""
_SHARPEST, _TEMPERATURES = 40.0, 60


def leave_one_out(features: Rows, labels: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Compute the probability of each label with each image left out.

    Returns float32 `[n, count]`. features: `[n, d]`. labels: `[n]` in [0, count), -1 for an image without a
    label; at least two have one.

    The model is a ridge regression of the labels as one-hot vectors. Leaving an image out changes its
    prediction in closed form (Cook 1977: the residual is divided by one less the leverage), so this is
    cross-validation with as many folds as images for the price of one fit. Of a few penalties the one with
    the smallest squared error is taken, and a temperature turns the predictions into probabilities.
    """
    known = torch.from_numpy(labels >= 0)
    total, places = int(known.sum()), torch.from_numpy(labels.clip(0))
    mean, axes, values = _principal_axes(features, known)
    unit = float(values.sum()) / min(total, len(values))
    shrunk = 1 / (values[:, None] + unit * torch.tensor(_STRENGTHS))
    targets = F.one_hot(places, count).float()
    share = targets[known].mean(0)
    centred = (targets - share) * known[:, None]
    rotated = torch.empty(features.shape[0], len(values))
    leverages = torch.empty(features.shape[0], len(_STRENGTHS))
    projected = torch.zeros(len(values), count)
    for start, tile in tiles(features):
        rows = slice(start, start + len(tile))
        rotated[rows] = (tile - mean) @ axes
        leverages[rows] = (rotated[rows].square() @ shrunk + 1 / total) * known[rows, None]
        projected += rotated[rows].T @ centred[rows]
    found, least = centred, torch.inf
    for number in range(len(_STRENGTHS)):
        leverage = leverages[:, number, None]
        fitted = rotated @ (shrunk[:, number, None] * projected)
        left_out = fitted - leverage / (1 - leverage).clamp_min(1e-6) * (centred - fitted)
        error = float((left_out - centred)[known].square().mean())
        if error < least:
            found, least = left_out + share, error
    return _probabilities(found, places, known)


def _principal_axes(features: Rows, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of the images with a label, their axes `[d, d]`, and the squares on each `[d]`."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for start, tile in tiles(features):
        total += tile[known[start : start + len(tile)]].double().sum(0)
    mean = (total / int(known.sum())).float()
    gram = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for start, tile in tiles(features):
        rows = tile[known[start : start + len(tile)]] - mean
        gram += (rows.T @ rows).double()
    values, axes = torch.linalg.eigh(gram)
    return mean, axes.float(), values.clamp_min(0).float()


def _probabilities(scores: Tensor, places: Tensor, known: Tensor) -> NDArray[np.float32]:
    """Return the softmax of the scores that suits the labels best."""
    candidates = np.geomspace(1.0, _SHARPEST, _TEMPERATURES).tolist()
    sharpest = min(candidates, key=lambda one: float(F.cross_entropy(scores[known] * one, places[known])))
    result: NDArray[np.float32] = (scores * sharpest).softmax(1).numpy()
    return result
