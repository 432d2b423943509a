"""The likelihood of images under a flow, by the instantaneous change of variables.

Along dx/dt = v(x, t), d log p_t(x_t) / dt = −div v(x_t, t) (Chen et al. 2018, theorem 1). An image is
followed back to noise, whose density is known (Grathwohl et al. 2019, equation 4):

    log p_T(x_T) = log N(x_0; 0, I) − ∫₀ᵀ div v(x_t, t) dt

The divergence is a sum of d entries of a Jacobian. ε·(∂v/∂x)ε estimates it without bias, where ε holds
independent signs (Hutchinson 1990; Grathwohl et al. 2019, section 3.1; Song et al. 2021, "Score-based
generative modeling", appendix D.2).

An image has 256 levels and a flow has a density. Uniform noise within a level turns one into the other, and
gives an upper bound on the bits (Theis et al. 2016, section 3.1).

A flow is followed to time T = END < 1, for three reasons. The velocity divides by 1−t. Training weighs the
last times little, where 1−t is clamped. And images of 256 levels say nothing of finer detail. So the model
that is measured is x_T / T: the flow's image with noise of deviation (1−T)/T. END makes that the deviation of
the uniform noise, so that the network sees at time T about as much noise as it learned from. (Song et al.
2021 also stop early, at a time of 1e-5.)
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from danqing.families.base import nats_to_bits_per_dim
from danqing.families.samplers import TOLERANCE, Velocity, integrate, predicted_image

LikelihoodSampler = Literal["heun", "midpoint", "adaptive"]

LEVEL = 2 / 255
"""The width of one of 256 levels in [-1, 1]."""

END = 1 / (1 + LEVEL / math.sqrt(12))
"""The time at which the noise of the path, (1−t)/t, has the deviation of uniform noise within a level."""

STEPS = 64
"""Midpoint steps that are right to 0.003 bits per dimension for Gaussian data (a test holds it)."""


def bits_per_dim(
    velocity: Velocity,
    images: Tensor,
    rng: torch.Generator,
    *,
    samples: int = 1,
    sampler: LikelihoodSampler = "midpoint",
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Estimate an upper bound on -log2 p(image) per dimension, `[n]` float32.

    velocity: of the flow itself, neither clipped nor guided. Gradients flow through it even where the caller
        has turned them off. Tensors that it holds must not have been made in inference mode.
    images: `[n, c, h, w]` in [-1, 1], of 256 levels.
    rng: of the uniform noise and the signs, on the device of the images.
    samples: draws of both, averaged. More make the value more certain, not smaller.
    steps: of the sampler; each evaluates the velocity and a gradient twice. tolerance: of "adaptive".
    """
    size, total = images[0].numel(), torch.zeros(len(images), device=images.device)
    for _ in range(samples):
        noise = torch.rand(images.shape, generator=rng, device=images.device) - 0.5
        signs = torch.rand(images.shape, generator=rng, device=images.device).round() * 2 - 1
        found = log_density(
            velocity,
            images + LEVEL * noise,
            trace_by_signs(signs),
            sampler=sampler,
            steps=steps,
            tolerance=tolerance,
        )
        total += found + size * math.log(LEVEL)
    return nats_to_bits_per_dim(-total / samples, size)


Trace = Callable[[Tensor, Tensor], Tensor]
"""From v(x) and x, both `[n, ...]`, to an estimate of div v at each image, `[n]`."""


def log_density(
    velocity: Velocity,
    images: Tensor,
    trace: Trace,
    *,
    sampler: LikelihoodSampler = "midpoint",
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Compute the log-density of images in nats, `[n]` float32.

    It is that of x_T / T for T = END.
    images: `[n, ...]`, continuous.

    The flow is followed in w = x / (1−t) over u = t / (1−t), where it is dw/du = x̂, the predicted image.
    Where an image is certain, x̂ is constant and every step is exact; in x and t the error of the noise would
    grow by 1 / (1−T). Steps of equal length in log(1 + u) suit what is left.
    """
    longest = END / (1 - END)

    def predicted(state: Tensor, share: Tensor) -> Tensor:
        """d/du of w, flattened, and of the integral of the divergence, `[n, d + 1]`; u = share · longest."""
        left = 1 / (1 + longest * share)  # 1 − t
        with torch.enable_grad():
            x = (left[:, None] * state[:, :-1]).reshape(images.shape).detach().requires_grad_()
            image = predicted_image(x, 1 - left, velocity(x, 1 - left))
            divergence = left * trace(image, x)
        rates = torch.cat([image.detach().flatten(1), divergence.detach()[:, None]], 1)
        return longest * rates.to(state.dtype)

    with torch.inference_mode(False), torch.no_grad():
        w = END / (1 - END) * images.clone().flatten(1)
        start = torch.cat([w, torch.zeros_like(w[:, :1])], 1)
        shares = [((1 + longest) ** (1 - step / steps) - 1) / longest for step in range(steps + 1)]
        state = integrate(sampler, predicted, start, shares, tolerance=tolerance)
        noise, integral, size = state[:, :-1], -state[:, -1], w.shape[1]
        prior = -(noise.square().sum(1) + size * math.log(2 * math.pi)) / 2
        return prior - integral + size * math.log(longest)


def trace_by_signs(signs: Tensor) -> Trace:
    """Estimate a trace by random signs.

    ε·(∂v/∂x)ε for signs ε `[n, ...]`, the same at every time.
    The signs stay the same so that a sampler follows one ordinary differential equation (Grathwohl et al.
    2019, section 3.1).
    """

    def estimate(slope: Tensor, x: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(slope, x, signs.to(slope.dtype))
        return (product * signs).flatten(1).sum(1)

    return estimate


def exact_trace(slope: Tensor, x: Tensor) -> Tensor:
    """Return div v exactly, by one gradient for each dimension."""
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for direction in _directions(x[0]):
        (product,) = torch.autograd.grad(slope, x, direction.expand_as(x), retain_graph=True)
        total = total + (product * direction).flatten(1).sum(1)
    return total


def _directions(image: Tensor) -> Iterator[Tensor]:
    for place in range(image.numel()):
        direction = torch.zeros(image.numel(), dtype=image.dtype, device=image.device)
        direction[place] = 1
        yield direction.reshape(image.shape)
