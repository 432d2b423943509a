"""Losses of self-supervised learning: two views of an image should agree, and those of others differ.

Each takes projections of two views of the same images, `[n, d]` float32, and returns a scalar.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_SHARPNESS = 0.05
"""The temperature of the targets of `cluster_loss`, which are sharper than its predictions."""
_ROUNDS = 3
_VARIANCE_FLOOR = 1e-4
_LIKENESS = _SPREAD = 25.0


def contrast_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Find the other view of an image among all views of a batch (Chen et al. 2020, equation 1)."""
    unit = F.normalize(torch.cat([first, second]), dim=1)
    count = len(first)
    logits = unit @ unit.T / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=unit.device)
    partner = torch.arange(2 * count, device=unit.device).roll(count)
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """Make views alike, with numbers that vary and are uncorrelated (Bardes et al. 2022, equation 6)."""
    loss = _LIKENESS * F.mse_loss(first, second)
    for views in (first, second):
        away = views - views.mean(0)
        covariance = away.T @ away / max(1, len(views) - 1)
        variances = covariance.diagonal()
        spread = F.relu(1 - (variances + _VARIANCE_FLOOR).sqrt()).mean()
        shared = (covariance.square().sum() - variances.square().sum()) / views.shape[1]
        loss = loss + _SPREAD / 2 * spread + shared
    return loss


def cluster_loss(first: Tensor, second: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Predict the cluster of a view from the other view (Caron et al. 2020, equation 2).

    prototypes: the middles of the clusters, `[k, d]`.
    """
    middles = F.normalize(prototypes, dim=1)
    alike = [F.normalize(views, dim=1) @ middles.T for views in (first, second)]
    targets = [balanced_clusters(scores.detach()) for scores in alike]
    losses = [
        -(target * F.log_softmax(scores / temperature, dim=1)).sum(1).mean()
        for target, scores in zip(reversed(targets), alike, strict=True)
    ]
    return (losses[0] + losses[1]) / 2


def balanced_clusters(alike: Tensor) -> Tensor:
    """Assign views to clusters that are equally large in the batch (Cuturi 2013, Sinkhorn's iteration).

    alike: the cosine of each view `[n]` with each prototype, `[n, k]`. Each row of the result adds up to 1.
    """
    shares = ((alike - alike.max()) / _SHARPNESS).exp()
    for _ in range(_ROUNDS):
        shares = shares / shares.sum(0, keepdim=True).clamp_min(1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-12)
    return shares


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the share of images whose second view is nearest to their first one, without gradients."""
    with torch.no_grad():
        nearest = (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T).argmax(1)
        return (nearest == torch.arange(len(first), device=first.device)).float().mean()
