"""Finds the latents of a generator whose image matches known pixels, by gradient descent.

A GAN has no encoder, so that an image is inverted by search (Zhu et al. 2016, section 4.1). With a mask, only
the known pixels are compared, and the rest of the found image fills the hole (Yeh et al. 2017).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 200
CANDIDATES = 8
"""From how many latents of a seed the search chooses where it begins."""

_LEARNING_RATE = 0.1
_TYPICAL_WEIGHT = 0.01
_BETAS, _EPSILON = (0.9, 0.99), 1e-8


def find_latents(
    generate: Callable[[Tensor], Tensor], images: Tensor, known: Tensor, candidates: Tensor, *, steps: int
) -> Tensor:
    """Find latents `[n, d]` whose images match known pixels.

    generate: from latents `[n, d]` to images `[n, c, h, w]`, each row on its own, with gradients.
    images: `[n, c, h, w]`. known: `[n, 1, h, w]`, 1 where a pixel counts, else 0.
    candidates: `[k, n, d]`; the search for an image begins at the one whose image is closest to it.
    steps: of Adam (Kingma and Ba 2015), whose rate falls to 0 along a cosine.

    The error is the mean square over the known pixels, plus a small term that keeps the length of the latents
    near that of noise. No operation mixes rows, so that a result depends on its own row alone.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        images, known = images.clone(), known.clone()  # inference tensors cannot be part of a gradient
        count = (known.sum((1, 2, 3)) * images.shape[1]).clamp_min(1)

        def errors(latents: Tensor) -> Tensor:
            squares = ((generate(latents).float() - images) * known).square().sum((1, 2, 3))
            untypical = latents.square().mean(1) - 1
            return squares / count + _TYPICAL_WEIGHT * untypical.square()

        with torch.no_grad():
            found = torch.stack([errors(each.clone()) for each in candidates])  # [k, n]
            rows = torch.arange(len(images), device=images.device)
            latents = candidates[found.argmin(0), rows].clone()
        first, second = torch.zeros_like(latents), torch.zeros_like(latents)
        for step in range(steps):
            point = latents.requires_grad_()
            (slope,) = torch.autograd.grad(errors(point).sum(), point)
            first = torch.lerp(slope, first, _BETAS[0])
            second = torch.lerp(slope.square(), second, _BETAS[1])
            rate = _LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            unbiased = [
                part / (1 - beta ** (step + 1)) for part, beta in zip((first, second), _BETAS, strict=True)
            ]
            latents = point.detach() - rate * unbiased[0] / (unbiased[1].sqrt() + _EPSILON)
        return latents.detach()
