"""How codes are drawn from what a transformer says of them: one after another, or many at once.

All randomness comes in from outside, as uniform numbers that belong to one image each: what an image becomes
does not depend on those painted beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]
OnCodes = Callable[[int, int, Tensor], None]
"""Told of steps done, steps in all, and the codes by then."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a code is chosen. temperature divides the logits; 0 takes the likeliest code. top_k: of so many
    likeliest codes, 0 for of all; top_p: of the fewest likeliest that hold this probability together
    (Holtzman et al. 2020, section 3.1).

    guidance_scale: how far to go from what is likely at all to what is likely under the condition; 1 is the
    condition alone. guidance_schedule: at once, or rising from 1 as the image is written. Raises ConfigError.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    guidance_schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be 0 or a positive number (got {self.temperature}).")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be a number of codes, or 0 for all of them (got {self.top_k}).")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1 (got {self.top_p}).")
        if not 0 <= self.guidance_scale < math.inf:
            raise ConfigError(f"guidance_scale must be 0 or a positive number (got {self.guidance_scale}).")
        if self.guidance_schedule not in get_args(Schedule):
            known = ", ".join(get_args(Schedule))
            raise ConfigError(f"guidance_schedule must be one of {known} (got {self.guidance_schedule!r}).")

    @property
    def is_guided(self) -> bool:
        """Whether what is likely without the condition has to be known."""
        return self.guidance_scale != 1

    def guidance(self, progress: float) -> float:
        """The scale when a share `progress` in [0, 1] of the image is written."""
        share = {
            "constant": 1.0,
            "linear": progress,
            "cosine": (1 - math.cos(math.pi * progress)) / 2,
        }[self.guidance_schedule]
        return 1 + (self.guidance_scale - 1) * share

    def choose(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Codes int64 `[...]` drawn by inverse transform from logits float32 `[..., vocabulary]` and numbers
        `[...]` uniform in [0, 1).
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        if self.temperature != 1:  # the largest becomes 0, so that nothing overflows
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        vocabulary = logits.shape[-1]
        kept = min(self.top_k or vocabulary, vocabulary)
        if kept == vocabulary and self.top_p == 1:
            return invert(logits.softmax(-1), uniforms)
        likeliest, codes = logits.topk(kept)
        probabilities = likeliest.softmax(-1)
        if self.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0)
        return codes.gather(-1, invert(probabilities, uniforms)[..., None])[..., 0]


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first index `[...]` at which the sum of weights `[..., v]` exceeds a share `[...]` in [0, 1) of
    all: weight 0 is never drawn.
    """
    sums = probabilities.cumsum(-1)
    total = sums[..., -1:]
    below = torch.minimum(uniforms[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, below, right=True)[..., 0]


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6, as 1 + w): of `[2n, ...]`, the first half
    under the condition and the second without, to `[n, ...]`.
    """
    conditional, unconditional = logits.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


class Decodes(Protocol):
    """What writes codes in raster order: `nets.raster.RasterDecoder`, or a stand-in without a cache."""

    logits: Tensor

    def extend(self, codes: Tensor) -> Tensor: ...


def write(
    decoder: Decodes, codes: Tensor, unknown: Tensor, uniforms: Tensor, sampling: Sampling, told: OnCodes
) -> Tensor:
    """Write the codes `[n, N]` that are `unknown` (bool `[n, N]`) in raster order, and leave the others.

    uniforms: `[n, N]`. The decoder has 2n rows where the sampling is guided: with the condition, then
    without. Given codes too go through it one by one, up to the last unknown one: to feed those together that
    are given in all rows would round them otherwise than beside a row in which one of them is unknown.
    """
    codes, copies = codes.clone(), 2 if sampling.is_guided else 1
    steps = int((unknown.any(0).nonzero() + 1).amax()) if bool(unknown.any()) else 0
    for place in range(steps):
        if place:
            decoder.extend(codes[:, place - 1].repeat(copies))
        logits = decoder.logits
        if sampling.is_guided:
            logits = guide(logits, sampling.guidance(place / max(codes.shape[1] - 1, 1)))
        chosen = sampling.choose(logits, uniforms[:, place])
        codes[:, place] = torch.where(unknown[:, place], chosen, codes[:, place])
        told(place + 1, steps, codes)
    return codes


def write_in_parallel(
    logits_of: Callable[[Tensor, float], Tensor],
    codes: Tensor,
    unknown: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    choice_temperature: float,
    told: OnCodes,
) -> Tensor:
    """Write the codes `[n, N]` that are `unknown`, the surest first, and leave the others (Chang et al. 2022,
    section 3.2).

    logits_of: codes and a guidance scale to logits `[n, N, vocabulary]`; codes not yet known have the id that
    they come with. uniforms: `[n, steps, 2, N]`, to draw codes by and to shuffle their order, the more the
    higher `choice_temperature`, less from step to step. How many stay unknown falls as a cosine, image by
    image.
    """
    wanted, blank, steps = unknown.sum(1), codes, uniforms.shape[1]
    for step in range(steps):
        done = (step + 1) / steps
        logits = logits_of(codes, sampling.guidance(step / max(steps - 1, 1)))
        chosen = sampling.choose(logits, uniforms[:, step, 0])
        left = torch.floor(wanted * math.cos(0.5 * math.pi * done) + 1e-6).long()
        left = torch.minimum(left, (unknown.sum(1) - 1).clamp_min(0))
        gumbel = -(-uniforms[:, step, 1].clamp_min(1e-20).log()).clamp_min(1e-20).log()
        sureness = F.log_softmax(logits, -1).gather(-1, chosen[..., None])[..., 0]
        sureness = (sureness + choice_temperature * (1 - done) * gumbel).masked_fill(~unknown, math.inf)
        rank = sureness.argsort(dim=1, stable=True).argsort(dim=1)  # 0 is the least sure
        again = unknown & (rank < left[:, None])
        filled = torch.where(unknown, chosen, codes)
        codes, unknown = torch.where(again, blank, filled), again
        told(step + 1, steps, codes)
    return codes
