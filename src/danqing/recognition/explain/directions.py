"""Directions in the noise of a generator along which its images change in one way.

A generator is a function `draw` from noise `[n, d]` to images `[n, c, h, w]`. Directions are unit vectors.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Draw = Callable[[Tensor], Tensor]
_STEP = 0.1
"""Of the differences that stand for derivatives, in standard deviations of the noise."""
_AT_ONCE = 64
_PENALTY = 1.0
"""Of the ridge regression, in squared deviations of a score for each image."""


class Change:
    """How much images change with their noise, over the images that were observed so far.

    The directions along which they change most are the first eigenvectors of the mean of J'J, where J holds
    the derivatives of all pixels by the noise (Ramesh et al. 2018, "A Spectral Regularizer for Unsupervised
    Disentanglement", section 3). They need no labels and are orthogonal.

    size: the length of a vector of noise.
    """

    def __init__(self, size: int) -> None:
        self._total = torch.zeros(size, size, dtype=torch.float64)
        self.observed = 0
        """How many images were observed."""

    def observe(self, draw: Draw, noise: Tensor) -> None:
        """Observe the image of one vector of noise `[size]`."""
        steps = _STEP * torch.eye(len(noise), dtype=noise.dtype, device=noise.device)
        ahead, behind = _drawn(draw, noise + steps), _drawn(draw, noise - steps)
        slopes = ((ahead - behind) / (2 * _STEP)).flatten(1).double().cpu()  # [size, pixels]
        self._total += slopes @ slopes.T
        self.observed += 1

    def strongest(self, count: int) -> tuple[Tensor, Tensor]:
        """Return directions `[count, size]`, and the share of all change along each, `[count]`.

        count: at most `size`. The largest component of a direction is positive.
        """
        values, vectors = torch.linalg.eigh(self._total / self.observed)
        chosen = vectors.T.flip(0)[:count]
        largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
        shares = values.flip(0)[:count].clamp_min(0) / values.clamp_min(0).sum().clamp_min(1e-30)
        return (chosen * largest.sign()).float(), shares.float()


def direction_of_score(noise: Tensor, scores: Tensor) -> tuple[Tensor, float]:
    """Find the direction along which a score of images rises (Shen et al. 2020, InterFaceGAN).

    The score may be a logit of a classifier. The direction is that of a ridge regression.

    noise: `[n, d]`. scores: `[n]`, of the images of this noise.
    Returns the direction `[d]`, and the share of the variance of scores that it explains, in [0, 1].
    """
    x, y = noise.double().cpu(), scores.double().cpu()
    x, y = x - x.mean(0), y - y.mean()
    penalty = _PENALTY * torch.eye(x.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    along = x @ found
    explained = 1 - (y - along).square().sum() / y.square().sum().clamp_min(1e-30)
    length = found.norm().clamp_min(1e-30)
    return (found / length).to(noise.dtype), float(explained.clamp(0, 1))


def walk(draw: Draw, noise: Tensor, direction: Tensor, distances: Sequence[float]) -> Tensor:
    """Move images along a direction, `[n, len(distances), c, h, w]`.

    noise: `[n, d]`, of the images. distances: in standard deviations of the noise; 0 is the image itself.
    """
    steps = torch.tensor(distances, dtype=noise.dtype, device=noise.device)[:, None] * direction.to(noise)
    moved = noise[:, None] + steps
    images = _drawn(draw, moved.flatten(0, 1))
    return images.view(*moved.shape[:2], *images.shape[1:])


def _drawn(draw: Draw, noise: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([draw(part).float() for part in noise.split(_AT_ONCE)])
