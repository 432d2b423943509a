"""Losses of masks: how far the class logits of pixels are from the true classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.data.targets import IGNORED


def mask_cross_entropy(logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the mean cross-entropy of the pixels whose class is known; 0 if there are none.

    logits: `[n, k, h, w]`. mask: integers `[n, h, w]`, `IGNORED` where unknown.
    weights: of each class, `[k]`; the mean is weighted by them.
    """
    targets = mask.long()
    losses = F.cross_entropy(logits.float(), targets, weights, ignore_index=IGNORED, reduction="sum")
    known = targets != IGNORED
    if weights is None:
        return losses / known.sum().clamp_min(1)
    return losses / (weights[targets.clamp_max(len(weights) - 1)] * known).sum().clamp_min(1e-6)


def dice_loss(logits: Tensor, mask: Tensor, smoothing: float = 1.0) -> Tensor:
    """Compute 1 - the mean Dice coefficient of the classes, with probabilities (Milletari et al. 2016).

    Sums are over all known pixels of the batch, so that a class which is in few of the images counts as much
    as the others.

    logits, mask: as of `mask_cross_entropy`. smoothing: is added to both sums, in pixels; a class that is not
    there should then have no probability.
    """
    known = mask != IGNORED
    truth = (
        F.one_hot(torch.where(known, mask, 0).long(), logits.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    )
    chances = logits.float().softmax(1) * known[:, None]
    shared = (chances * truth).sum((0, 2, 3))
    total = chances.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return 1 - ((2 * shared + smoothing) / (total + smoothing)).mean()
