"""Attribution: how much each pixel of an image counts for one output of a network.

Each function takes `outputs`, from images `[n, c, h, w]` to numbers `[n, k]`, and the column `[n]` int64 of
each image that is explained. A positive value speaks for that output. No function draws at random.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Outputs = Callable[[Tensor], Tensor]
_AT_ONCE = 64
"""Changed images that are computed at once."""


def integrated_gradients(
    outputs: Outputs, images: Tensor, columns: Tensor, *, baseline: Tensor | float = 0.0, steps: int = 50
) -> Tensor:
    """Integrate the gradient along the line from a baseline to each image, `[n, c, h, w]`.

    The values of an image add up to what its output is above that of the baseline (Sundararajan et al. 2017,
    equation 1). The integral is by Gauss-Legendre quadrature.

    baseline: an image that shows nothing, or one value for all of its pixels; 0 is grey.
    steps: how many points of the line are evaluated.
    """
    places, weights = np.polynomial.legendre.leggauss(steps)
    start = torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)
    difference = images - start
    total = torch.zeros_like(images)
    for place, weight in zip((1 + places) / 2, weights / 2, strict=True):
        total += _gradient(outputs, start + float(place) * difference, columns) * float(weight)
    return total * difference


def occlusion(
    outputs: Outputs,
    images: Tensor,
    columns: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    baseline: float = 0.0,
) -> Tensor:
    """Hide one window after the other, and return how much the output falls, `[n, 1, h, w]`.

    A pixel has the mean of all windows that hide it (Zeiler and Fergus 2014, section 4.2).

    window, stride: (rows, columns) in pixels. baseline: the value of hidden pixels.
    """
    n, _, height, width = images.shape
    total = torch.zeros(n, 1, height, width, dtype=images.dtype, device=images.device)
    count = torch.zeros(1, 1, height, width, dtype=images.dtype, device=images.device)
    corners = [
        (top, left)
        for top in _starts(height, window[0], stride[0])
        for left in _starts(width, window[1], stride[1])
    ]
    with torch.no_grad():
        whole = _chosen(outputs(images), columns)
        per_pass = max(1, _AT_ONCE // n)
        for first in range(0, len(corners), per_pass):
            part = corners[first : first + per_pass]
            hidden = images.repeat(len(part), 1, 1, 1)
            for number, (top, left) in enumerate(part):
                rows = slice(number * n, (number + 1) * n)
                hidden[rows, :, top : top + window[0], left : left + window[1]] = baseline
            falls = whole.repeat(len(part)) - _chosen(outputs(hidden), columns.repeat(len(part)))
            for number, (top, left) in enumerate(part):
                area = (slice(None), slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
                total[area] += falls[number * n : (number + 1) * n, None, None, None]
                count[area] += 1
    return total / count


def grad_cam(
    outputs: Outputs, images: Tensor, columns: Tensor, *, layer: torch.nn.Module, signed: bool = False
) -> Tensor:
    """Weight the maps of a layer by the mean of their gradients, `[n, 1, h, w]` of the images' size.

    (Selvaraju et al. 2017, equations 1 and 2.)

    layer: a module that `outputs` uses once, whose output is a map `[n, channels, rows, columns]`.
    signed: keep what speaks against the output, which the paper leaves out.
    """
    maps: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        maps.append(output if output.requires_grad else output.requires_grad_())

    hook = layer.register_forward_hook(keep)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            values = _chosen(outputs(images.clone().requires_grad_()), columns)
            (gradient,) = torch.autograd.grad(values.sum(), maps[0])
    finally:
        hook.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    heat = (weights * maps[0].detach()).sum(1, keepdim=True)
    heat = heat if signed else heat.clamp_min(0)
    return F.interpolate(heat.float(), images.shape[2:], mode="bilinear", align_corners=False)


def passes_gradients(outputs: Outputs, images: Tensor) -> bool:
    """Return whether outputs have gradients by the pixels of images.

    The codes of a tokenizer have none.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        return outputs(images.detach().clone().requires_grad_()).requires_grad


def _gradient(outputs: Outputs, images: Tensor, columns: Tensor) -> Tensor:
    """Return the gradient of each image's output by its pixels, `[n, c, h, w]`."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        point = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_chosen(outputs(point), columns).sum(), point)
    return gradient


def _chosen(values: Tensor, columns: Tensor) -> Tensor:
    return values.gather(1, columns[:, None])[:, 0]


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows start so that they cover a side; the last one may end beyond it."""
    count = max(0, -(-(side - window) // stride)) + 1
    return [number * stride for number in range(count)]
