"""The likelihood of images under a flow, by the instantaneous change of variables.

Along dx/dt = v(x, t), d log p_t(x_t) / dt = −div v(x_t, t) (Chen et al. 2018, theorem 1). An image is
followed back to noise, whose density is known (Grathwohl et al. 2019, equation 4):

    log p_T(x_T) = log N(x_0; 0, I) − ∫₀ᵀ div v(x_t, t) dt

The divergence is a sum of d entries of a Jacobian. ε·(∂v/∂x)ε estimates it without bias, where ε holds
independent signs (Hutchinson 1990; Grathwohl et al. 2019, section 3.1; Song et al. 2021, "Score-based
generative modeling", appendix D.2).

An image has 256 levels and a flow has a density. Uniform noise within a level turns one into the other, and
gives an upper bound on the bits (Theis et al. 2016, section 3.1).

The flow is followed to time T = END < 1 alone. Beyond it 1−t is clamped in training, so that the network has
not learned images more precisely than to about 1−T. Followed further, an error e of the predicted image would
count as noise of e / (1−t) deviations: 0.01 is 4 of them at the scale of a level, or 14 bits. So x_T is a
latent variable, as the last step of a diffusion model is (Ho et al. 2020, section 3.3; Kingma et al. 2021,
equation 7). For noise ε and y, the image with uniform noise,

    −log p(y) ≤ E[log q(x_T | y) − log p_T(x_T) − log p(y | x_T)],   x_T = T·y + (1−T)·ε,

where p(y | x_T) is Gaussian around the predicted image, with one deviation for each image that is drawn from
a grid of SCALES.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from danqing.families.base import nats_to_bits_per_dim
from danqing.samplers import TOLERANCE, Velocity, integrate, predicted_image

LikelihoodSampler = Literal["heun", "midpoint", "adaptive"]

LEVEL = 2 / 255
"""The width of one of 256 levels in [-1, 1]."""

END = 0.95
"""The time up to which the flow is followed; training clamps 1−t at 0.05."""

SCALES = 32
"""Deviations from that of uniform noise within a level to one that covers the noise at END, evenly in their
logarithm. Drawing one of them costs at most 5 bits for an image.
"""

STEPS = 32
"""Midpoint steps that are right to 0.001 bits per dimension for Gaussian data (a test holds it)."""


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

    velocity: of the flow that is measured; guidance makes it another flow. Gradients go through it even where
        the caller has turned them off.
    images: `[n, c, h, w]` in [-1, 1], of 256 levels.
    rng: of the uniform noise and the signs, on the device of the images.
    samples: draws of both, averaged. More make the value more certain, not smaller.
    steps: of the sampler; each evaluates the velocity and a gradient twice. tolerance: of "adaptive".
    """
    shape, device, size = images.shape, images.device, images[0].numel()
    with torch.inference_mode(False), torch.no_grad():
        images, total = images.clone(), torch.zeros(len(images), device=device)
        for _ in range(samples):
            y = images + LEVEL * (torch.rand(shape, generator=rng, device=device) - 0.5)
            noise = torch.randn(shape, generator=rng, device=device)
            signs = torch.rand(shape, generator=rng, device=device).round() * 2 - 1
            x, t = END * y + (1 - END) * noise, torch.full((len(y),), END, device=device)
            image = predicted_image(x, t, velocity(x, t))
            total += _log_last_step(y - image, noise)
            total += log_density(
                velocity, x, trace_by_signs(signs), sampler=sampler, steps=steps, tolerance=tolerance
            )
    return nats_to_bits_per_dim(-total / samples - size * math.log(LEVEL), size)


def _log_last_step(error: Tensor, noise: Tensor) -> Tensor:
    """Return log p(y | x_T) − log q(x_T | y), `[n]`.

    error: y less the predicted image. noise: of x_T, in deviations.
    """
    size, largest = error[0].numel(), 4 * (1 - END)
    logs = torch.linspace(math.log(LEVEL / math.sqrt(12)), math.log(largest), SCALES, device=error.device)
    squares = error.flatten(1).square().sum(1)
    each = -squares[:, None] / (2 * (2 * logs).exp()) - size * logs
    log_p = each.logsumexp(1) - math.log(SCALES)
    log_q = -noise.flatten(1).square().sum(1) / 2 - size * math.log(1 - END)
    return log_p - log_q


Trace = Callable[[Tensor, Tensor], Tensor]
"""From v(x) and x, both `[n, ...]`, to an estimate of div v at each image, `[n]`."""


def log_density(
    velocity: Velocity,
    x: Tensor,
    trace: Trace,
    *,
    sampler: LikelihoodSampler = "midpoint",
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Return the log-density of a flow at time END.

    The result is float32 `[n]`, in nats.
    x: `[n, ...]`, points at that time.

    The flow is followed in w = x / (1−t) over u = t / (1−t), where it is dw/du = x̂, the predicted image.
    Where an image is certain, x̂ is constant and every step is exact; in x and t the error of the noise would
    grow by 1 / (1−T). Steps of equal length in log(1 + u) suit what is left.
    """
    longest = END / (1 - END)

    def predicted(state: Tensor, share: Tensor) -> Tensor:
        """d/du of w, flattened, and of the integral of the divergence, `[n, d + 1]`; u = share · longest."""
        left = 1 / (1 + longest * share)  # 1 − t
        with torch.enable_grad():
            moved = (left[:, None] * state[:, :-1]).reshape(x.shape).detach().requires_grad_()
            image = predicted_image(moved, 1 - left, velocity(moved, 1 - left))
            divergence = left * trace(image, moved)
        rates = torch.cat([image.detach().flatten(1), divergence.detach()[:, None]], 1)
        return longest * rates.to(state.dtype)

    with torch.inference_mode(False), torch.no_grad():
        w = x.clone().flatten(1) / (1 - END)
        start = torch.cat([w, torch.zeros_like(w[:, :1])], 1)
        shares = [((1 + longest) ** (1 - step / steps) - 1) / longest for step in range(steps + 1)]
        state: Tensor = integrate(sampler, predicted, start, shares, tolerance=tolerance)
        noise, integral, size = state[:, :-1], -state[:, -1], w.shape[1]
        prior = -(noise.square().sum(1) + size * math.log(2 * math.pi)) / 2
        return prior - integral - size * math.log(1 - END)


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
