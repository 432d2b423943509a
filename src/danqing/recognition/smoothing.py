"""Randomized smoothing: a classifier that votes over noisy copies, with a radius that no attack can cross.

(Cohen, Rosenfeld and Kolter 2019, "Certified Adversarial Robustness via Randomized Smoothing".)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.randomness import generator
from danqing.recognition.attack.objectives import Logits

ABSTAINS = -1
_AT_ONCE = 256
_FIRST = 100
"""Noisy copies that choose the label; others then count its votes."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a smoothed classifier says of images.

    labels: int64 `[n]`, `ABSTAINS` where no label is sure enough.
    radii: float64 `[n]`: no change of a smaller l2 norm changes the label; 0 where it abstains. Norms are of
        shares of the range of values, as `Ball.epsilon` is.
    """

    labels: Tensor
    radii: Tensor


def certify(
    logits: Logits,
    images: Tensor,
    *,
    sigma: float,
    seeds: Sequence[int],
    samples: int = 1000,
    alpha: float = 0.001,
) -> Certificates:
    """Classify images by a vote over noisy copies, and certify it.

    images: `[n, c, h, w]` in [-1, 1].
    sigma: the standard deviation of the noise, as a share of the range of values.
    seeds: one for each image.
    samples: noisy copies that are counted. The largest radius grows with their number.
    alpha: the probability that a radius is too large. (Algorithm CERTIFY.)
    Raises ConfigError.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ConfigError(f"sigma must be above 0 (got {sigma!r}).", "sigma")
    if samples < 1 or not 0 < alpha < 1:
        raise ConfigError("samples must be at least 1, and alpha between 0 and 1.", "samples")
    labels, radii = [], []
    for image, seed in zip(images, seeds, strict=True):
        first = _votes(logits, image, sigma, seed, "first votes", _FIRST)
        label = int(first.argmax())
        count = int(_votes(logits, image, sigma, seed, "votes", samples)[label])
        share = lower_bound(count, samples, alpha)
        is_sure = share > 0.5
        labels.append(label if is_sure else ABSTAINS)
        radii.append(sigma * NormalDist().inv_cdf(share) if is_sure else 0.0)
    return Certificates(torch.tensor(labels), torch.tensor(radii, dtype=torch.float64))


def lower_bound(count: int, samples: int, alpha: float) -> float:
    """Return the lower end of an interval of a share.

    (Clopper and Pearson 1934.) It is the share with which `count` hits or more of `samples` have the
    probability `alpha`.
    """
    if count == 0:
        return 0.0
    hits = torch.arange(count, samples + 1, dtype=torch.float64)
    ways = math.lgamma(samples + 1) - torch.lgamma(hits + 1) - torch.lgamma(samples - hits + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        tail = ways + hits * math.log(share) + (samples - hits) * math.log1p(-share)
        low, high = (low, share) if float(tail.logsumexp(0)) > math.log(alpha) else (share, high)
    return low


def _votes(logits: Logits, image: Tensor, sigma: float, seed: int, purpose: str, count: int) -> Tensor:
    """How often each label wins on noisy copies of an image, `[k]`."""
    rng, votes = generator(seed, purpose), torch.zeros(0)
    with torch.no_grad():
        for start in range(0, count, _AT_ONCE):
            size = (min(_AT_ONCE, count - start), *image.shape)
            noise = torch.randn(size, generator=rng).to(image.device)
            found = logits(image + 2 * sigma * noise)
            won = torch.bincount(found.argmax(1).cpu(), minlength=found.shape[1])
            votes = won + votes if len(votes) else won
    return votes
