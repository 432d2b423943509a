"""Following a flow back, from images to the noise that they come from.

The probability flow of a trained model is an ordinary differential equation, so that an image and its noise
determine each other. Inverted under one condition and sampled under another, an image shows something else in
the same place and pose (Su et al. 2022, "Dual Diffusion Implicit Bridges").
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.abilities import OnStep
from danqing.samplers import SamplerName, Velocity, integrate, time_grid

END = 0.95
"""Where the way back begins, with as much noise as the network has learned to see (`ode_likelihood.END`)."""
ONE_WAY = ("dpm++", "stochastic", "consistency")
"""Samplers that cannot go back: one is made for rising times, the others add noise."""
_USUAL: SamplerName = "ab2"


def usual_sampler(name: SamplerName) -> SamplerName:
    """Return a sampler that can go back from images to noise.

    This is the default of the model, or another if the default cannot go back.

    name: the default of the model.
    """
    return _USUAL if name in ONE_WAY else name


def check_sampler(name: SamplerName) -> None:
    """Raise ConfigError for a sampler that cannot follow a flow back."""
    if name in ONE_WAY:
        known = ", ".join(each for each in get_args(SamplerName) if each not in ONE_WAY)
        raise ConfigError(
            f"The sampler {name} cannot go from an image to noise: choose one of {known}.", "sampler"
        )


def inverted(
    sampler: SamplerName,
    velocity: Velocity,
    images: Tensor,
    noise: Tensor,
    *,
    end: float,
    steps: int,
    shift: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Follow a velocity from images back to time `end`.

    images, noise: `[n, ...]`. The path begins at time `END`, at END · image + (1 − END) · noise.
    end: in [0, 1). After END there is nothing to follow, and the points are images with noise.
    steps, shift: as of `samplers.time_grid`.
    Returns the points at time `end`.
    """
    begin = max(END, end)
    start = torch.lerp(noise, images, begin)
    if end >= END:
        return start
    rising = time_grid(steps, shift)
    falling: Sequence[float] = [end + (begin - end) * time for time in reversed(rising)]
    found: Tensor = integrate(sampler, velocity, start, falling, on_step=on_step)
    return found
