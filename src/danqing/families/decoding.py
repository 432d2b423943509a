"""Draws codes from a decoder's logits: one after another, or many at once.

All randomness is passed in, as uniform numbers that belong to one image each. So an image does not depend on
the images that are sampled beside it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from danqing.families.masked_order import left_unknown
from danqing.guidance import scale_at
from danqing.options import Schedule, check
from danqing.trust.codes_mark import STRENGTH

OnCodes = Callable[[int, int, Tensor], None]
"""A function that is called after each step with steps done, steps in all, and the codes so far."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a code is drawn from logits.

    temperature: divides the logits; 0 takes the likeliest code.
    top_k: draw from so many of the likeliest codes; 0 is all.
    top_p: draw from the fewest likeliest codes with this probability together (Holtzman et al. 2020, section
        3.1).
    guidance_scale: how far to move from the logits without the condition to those under it; 1 is under it.
    guidance_schedule: whether the scale is constant, or rises from 1 as the image is written.
    Raises ConfigError for values outside of their range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    guidance_schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        check(**asdict(self))

    @property
    def is_guided(self) -> bool:
        """Return whether logits without the condition are needed."""
        return self.guidance_scale != 1

    def guidance(self, progress: float) -> float:
        """Return the guidance scale at some point of writing.

        progress: the share of the image that is written, in [0, 1].
        """
        return scale_at(self.guidance_scale, self.guidance_schedule, progress)

    def choose(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Draw codes int64 `[...]` by inverse transform sampling.

        logits: float32 `[..., vocabulary]`.
        uniforms: `[...]`, uniform in [0, 1).
        """
        if self.temperature < torch.finfo(torch.float32).tiny:
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
            probabilities = probabilities.masked_fill((before >= self.top_p) & (before > 0), 0)
        return codes.gather(-1, invert(probabilities, uniforms)[..., None])[..., 0]


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Return the first index at which the cumulative sum exceeds a share.

    probabilities: weights `[..., v]`; an index of weight 0 is never returned.
    uniforms: shares of the total `[...]`, in [0, 1).
    """
    sums = probabilities.cumsum(-1)
    total = sums[..., -1:]
    below = torch.minimum(uniforms[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, below, right=True)[..., 0]


def raised(logits: Tensor, favoured: Tensor | None, places: int | Tensor) -> Tensor:
    """Raise the logits of favoured codes, which marks the image.

    logits: `[n, vocabulary]` of one place, or `[n, t, vocabulary]` of the places `[n, t]`.
    favoured: bool `[N, vocabulary]`; None leaves the logits as they are.
    """
    return logits if favoured is None else torch.add(logits, favoured[places], alpha=STRENGTH)


def guide(logits: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance.

    logits: `[2n, ...]`, the first half under the condition, the second half without it.
    scale: 1 + w of Ho and Salimans 2022, equation 6.
    Returns `[n, ...]`.
    """
    conditional, unconditional = logits.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


class Decodes(Protocol):
    """A decoder in raster order, such as `nets.decoders.raster.RasterDecoder`."""

    logits: Tensor

    def extend(self, codes: Tensor) -> Tensor: ...


def write(
    decoder: Decodes,
    codes: Tensor,
    unknown: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    told: OnCodes,
    *,
    favoured: Tensor | None = None,
) -> Tensor:
    """Write the unknown codes in raster order; return all codes `[n, N]`.

    decoder: of n rows, or, where sampling is guided, 2n: under the condition, then without it.
    codes: `[n, N]`; those that are not unknown stay as they are.
    unknown: bool `[n, N]`.
    uniforms: `[n, N]` in [0, 1).
    told: called after each step.
    favoured: as of `raised`.

    Given codes also go through the decoder one by one, up to the last unknown code. Codes that are given in
    all rows could go through together, but they would round differently than beside a row in which one of
    them is unknown.
    """
    codes = codes.clone()
    steps = int((unknown.any(0).nonzero() + 1).amax()) if bool(unknown.any()) else 0
    for place in range(steps):
        if place:
            last = codes[:, place - 1]
            decoder.extend(torch.cat([last, last]) if sampling.is_guided else last)
        logits = decoder.logits
        if sampling.is_guided:
            logits = guide(logits, sampling.guidance(place / max(codes.shape[1] - 1, 1)))
        chosen = sampling.choose(raised(logits, favoured, place), uniforms[:, place])
        codes[:, place] = torch.where(unknown[:, place], chosen, codes[:, place])
        told(place + 1, steps, codes)
    return codes


class DecodesInParallel(Protocol):
    """A decoder in any order, such as `nets.decoders.parallel.ParallelDecoder`."""

    def extend(self, codes: Tensor, places: Tensor, requested: Tensor) -> Tensor: ...


def write_in_parallel(
    decoder: DecodesInParallel,
    codes: Tensor,
    unknown: Tensor,
    moments: Tensor,
    uniforms: Tensor,
    num_steps: int,
    sampling: Sampling,
    told: OnCodes,
    *,
    partial: bool,
    favoured: Tensor | None = None,
) -> Tensor:
    """Write the unknown codes in `num_steps` steps; return all codes `[n, N]`.

    decoder, codes, unknown, uniforms, told, favoured: as of `write`.
    moments: `[N]` in [0, 1), the order in which codes are written.
    partial: whether some images may have given codes.

    Matrix products of another size may round differently. So where codes may be given, each step has the size
    that it needs for any number of them: an image does not depend on how many codes others were given.
    """
    codes, copies, count = codes.clone(), 2 if sampling.is_guided else 1, codes.shape[1]
    order = (moments + unknown).argsort(dim=1)  # what is given comes first
    images = torch.arange(len(codes), device=codes.device)[:, None].expand_as(codes)
    left, possible = unknown.sum(1), torch.arange(0 if partial else count, count + 1)
    entering, real = _between(order, torch.zeros_like(left), count - left, count if partial else 0)
    steps = zip(left_unknown(left, num_steps), left_unknown(possible, num_steps), strict=True)
    for step, (after, possible_after) in enumerate(steps):
        before, left = left, after
        width, possible = int((possible - possible_after).max()), possible_after
        if bool((left < before).any()):
            requested, written = _between(order, count - before, count - left, width)
            known = codes.gather(1, entering).masked_fill(~real, -1)
            given = (known, entering, requested)
            logits = decoder.extend(*(each.repeat(copies, 1) for each in given))
            if sampling.is_guided:
                logits = guide(logits, sampling.guidance(step / max(num_steps - 1, 1)))
            chosen = sampling.choose(raised(logits, favoured, requested), uniforms.gather(1, requested))
            codes[images[:, : requested.shape[1]][written], requested[written]] = chosen[written]
            entering, real = requested, written
        told(step + 1, num_steps, codes)
    return codes


def _between(order: Tensor, start: Tensor, stop: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Take elements `start` to `stop` of each row of `[n, N]`, and which are not padding, `[n, width]` each.

    start, stop: int64 `[n]`, at most `width` apart.
    """
    numbers = start[:, None] + torch.arange(width, device=order.device)
    return order.gather(1, numbers.clamp_max(order.shape[1] - 1)), numbers < stop[:, None]
