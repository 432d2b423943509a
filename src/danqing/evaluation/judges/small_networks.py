"""What judges of labels and of captions share: convolutions, and weights that follow from a seed."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.images import to_float
from danqing.nets.weightless import weightless

SIDE = 32
"""Larger images are averaged down to this longer side."""
LAYERS = ((32, 4, 2), (64, 3, 2), (64, 3, 1), (128, 3, 2), (128, 3, 1))
"""Convolutions: width, kernel, stride."""


def prepared(images: Tensor) -> Tensor:
    """Convert images to float `[n, c, h, w]` in [-1, 1], at most `SIDE` a side.

    images: uint8 `[n, h, w, c]`.
    """
    values = to_float(images)
    shrink = SIDE / max(values.shape[2:])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in values.shape[2:]]
        values = F.interpolate(values, size, mode="area")
    return values.contiguous(memory_format=torch.channels_last)


def image_tower(channels: int, outputs: int, rng: torch.Generator, *, places: int) -> nn.Sequential:
    """Build strided convolutions, a pooling layer and one matrix.

    places: the pooling leaves this many places a side.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        before = channels
        for width, kernel, stride in LAYERS:
            convolution = nn.Conv2d(before, width, kernel, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        last = [nn.AdaptiveAvgPool2d(places), nn.Flatten(), nn.Linear(before * places**2, outputs)]
        return nn.Sequential(*layers, *last)

    return cast(nn.Sequential, begun(build, rng).to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def begun(build: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """Initialise a network from the generator alone."""
    with weightless():  # constructors draw nothing from torch's global randomness
        network = build()
    network = network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=rng)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=rng)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
    return network


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, *, rise: int) -> None:
    """Set the learning rate of a step.

    It rises to `peak` within a `rise`-th of the steps, and falls to 0 at the end.
    """
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, rise * step / steps) * (1 - step / steps)
