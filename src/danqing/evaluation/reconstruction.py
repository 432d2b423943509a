"""How near a picture is to the one that it should be: one number for each pair of images.

Images are uint8 `[n, h, w, c]` of 1 to 4 channels, alpha counting like a colour; results are float64 `[n]`.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.contract import HasStages
from danqing.evaluation.networks.batched import filled
from danqing.evaluation.resize import images_at_once

WINDOW = 11
"""Structural similarity looks through windows of this side."""
_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_NUMBERS = 1 << 22


def squared_error(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared difference of values in [0, 1]; 0 is best."""
    _check(images, targets)
    parts = [(a - b).square_().flatten(1).mean(1) for a, b in _batches(images, targets)]
    return torch.cat(parts) / 255**2


def absolute_error(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean absolute difference of values in [0, 1], L1; 0 is best."""
    _check(images, targets)
    parts = [(a - b).abs_().flatten(1).mean(1) for a, b in _batches(images, targets)]
    return torch.cat(parts) / 255


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB.

    It is 10 log₁₀(255² / mean squared difference), infinite for equal images.
    """
    return -10 * squared_error(images, targets).log10()


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity, at most 1.

    The mean over places and channels of Wang et al. 2004, equation 13.

    With the paper's Gaussian window, 11×11 of standard deviation 1.5, where it lies wholly inside. Raises
    EvaluationError for images below 11×11.
    """
    ms_ssim_scales(*images.shape[1:3])
    _check(images, targets)
    parts = [_similarity(a, b) for a, b in _batches(images, targets)]
    return torch.cat([full.mean((1, 2, 3)) for full, _ in parts])


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity on several scales, 0 to 1.

    Wang, Simoncelli and Bovik 2003, equation 7.

    Each of the `ms_ssim_scales` halves the images by averaging. The weights of the paper's five scales are
    divided by their sum where fewer fit, so values compare only between images of one size. A scale whose
    structure is opposed on the whole counts as 0. Raises EvaluationError for images below 11×11.
    """
    scales = ms_ssim_scales(*images.shape[1:3])
    _check(images, targets)
    weights = [weight / sum(_SCALE_WEIGHTS[:scales]) for weight in _SCALE_WEIGHTS[:scales]]
    results = []
    for a, b in _batches(images, targets):
        product = torch.ones(len(a), dtype=torch.float64)
        for scale, weight in enumerate(weights):
            full, structure = _similarity(a, b)
            part = full if scale == scales - 1 else structure
            product *= part.mean((1, 2, 3)).clamp_min(0) ** weight
            if scale < scales - 1:
                a, b = (F.avg_pool2d(x, 2) for x in (a, b))
        results.append(product)
    return torch.cat(results)


def ms_ssim_scales(height: int, width: int) -> int:
    """Return on how many scales MS-SSIM is measured.

    As many, up to five, as leave 11 pixels to the shorter side.

    All five from 176 pixels on, four from 88, three from 44, two from 22; one is SSIM itself. Raises
    EvaluationError below 11.
    """
    if min(height, width) < WINDOW:
        raise EvaluationError(
            f"Structural similarity needs images of at least {WINDOW}x{WINDOW} pixels, not {width}x{height}: "
            "leave ssim and ms-ssim out."
        )
    return min(len(_SCALE_WEIGHTS), 1 + int(math.log2(min(height, width) // WINDOW)))


def perceptual(images: Tensor, targets: Tensor, network: HasStages) -> Tensor:
    """Return the distance of the activations of some layers; 0 is best.

    The activations at each place are scaled to length 1.

    0 is best. Squared, averaged over places and then over layers (Zhang et al. 2018, equation 1, with all
    channels weighing the same: LPIPS has weights learnt from people's judgements, so this is not LPIPS).
    """
    _check(images, targets)
    size = min(network.batch_size, images_at_once((images.shape[2], images.shape[1])))
    pairs = zip(torch.split(images, size), torch.split(targets, size), strict=True)
    return torch.cat([_distance(filled(a, size), filled(b, size), network)[: len(a)] for a, b in pairs])


def _distance(images: Tensor, targets: Tensor, network: HasStages) -> Tensor:
    """The perceptual distance of as many pairs as pass through the network at once."""
    total = torch.zeros(len(images), dtype=torch.float64)
    stages = list(zip(network.stages(images), network.stages(targets), strict=True))
    for a, b in stages:
        difference = _unit(a) - _unit(b)
        total += difference.square_().sum(1).flatten(1).mean(1).cpu()
    return total / len(stages)


def _check(images: Tensor, targets: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 2, 3, 4):
        raise ValueError(f"expected uint8 images [n, h, w, c], got {images.dtype} {list(images.shape)}")
    if images.shape != targets.shape or targets.dtype != images.dtype:
        raise EvaluationError(
            f"Images of {list(images.shape)} cannot be compared with images of {list(targets.shape)}: bring "
            "them to one size and one number of channels."
        )


def _batches(images: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    at_once = max(1, _NUMBERS // images[0].numel()) if len(images) else 1
    for a, b in zip(torch.split(images, at_once), torch.split(targets, at_once), strict=True):
        yield _planes(a), _planes(b)


def _planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float64, memory_format=torch.contiguous_format)


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM at each place of float64 images `[n, c, h, w]`, and its part of contrast and structure alone."""
    down, across = _window(a.shape[2]), _window(a.shape[3]).T
    mean_a, mean_b, square_a, square_b, product = (down @ x @ across for x in (a, b, a * a, b * b, a * b))
    spread = square_a - mean_a.square() + square_b - mean_b.square()
    structure = (2 * (product - mean_a * mean_b) + _C2) / (spread + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return luminance * structure, structure


def _window(side: int) -> Tensor:
    """The Gaussian window as a matrix `[side - 10, side]`: for sides of some hundred pixels, products with it
    are faster than a convolution in float64.
    """
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = (-offsets.square() / (2 * _SIGMA**2)).exp()
    weights /= weights.sum()
    matrix = torch.zeros(side - WINDOW + 1, side, dtype=torch.float64)
    for offset, weight in enumerate(weights.tolist()):
        matrix.diagonal(offset).fill_(weight)
    return matrix


def _unit(activations: Tensor) -> Tensor:
    """Activations `[n, c, h, w]` as float64 of length 1 at each place; 0 stays 0."""
    activations = activations.double()
    length = activations.square().sum(1, keepdim=True).sqrt_()
    return activations / length.clamp_min(1e-10)
