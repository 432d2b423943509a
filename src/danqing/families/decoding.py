"""How codes are drawn from what a transformer says of them: one after another, or many at once.

All randomness comes in from outside, as uniform numbers that belong to one image each: what an image becomes
does not depend on those painted beside it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from danqing.options import Schedule, check

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
        check(**asdict(self))

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
    codes = codes.clone()
    steps = int((unknown.any(0).nonzero() + 1).amax()) if bool(unknown.any()) else 0
    for place in range(steps):
        if place:
            last = codes[:, place - 1]
            decoder.extend(torch.cat([last, last]) if sampling.is_guided else last)
        logits = decoder.logits
        if sampling.is_guided:
            logits = guide(logits, sampling.guidance(place / max(codes.shape[1] - 1, 1)))
        chosen = sampling.choose(logits, uniforms[:, place])
        codes[:, place] = torch.where(unknown[:, place], chosen, codes[:, place])
        told(place + 1, steps, codes)
    return codes


class DecodesInParallel(Protocol):
    """What says which codes are likely at some places: `nets.parallel.ParallelDecoder`."""

    def extend(self, codes: Tensor, places: Tensor, asked: Tensor) -> Tensor: ...


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
    begun: bool,
) -> Tensor:
    """Write the codes `[n, N]` that are `unknown` (bool `[n, N]`) in `num_steps`, and leave the others.

    moments: `[N]` in [0, 1), the order in which they are written. uniforms: `[n, N]`. The decoder has 2n
    rows where the sampling is guided: with the condition, then without. begun: whether codes may be given.

    Products of other sizes round otherwise. Where codes may be given, each step has as many as it would need
    for any number of them: what becomes of an image does not depend on how many others have.
    """
    codes, copies, count = codes.clone(), 2 if sampling.is_guided else 1, codes.shape[1]
    order = (moments + unknown).argsort(dim=1)  # what is given comes first
    images = torch.arange(len(codes), device=codes.device)[:, None].expand_as(codes)
    left, possible = unknown.sum(1), torch.arange(0 if begun else count, count + 1)
    entering, real = _between(order, torch.zeros_like(left), count - left, count if begun else 0)
    steps = zip(left_unknown(left, num_steps), left_unknown(possible, num_steps), strict=True)
    for step, (after, possible_after) in enumerate(steps):
        before, left = left, after
        width, possible = int((possible - possible_after).max()), possible_after
        if bool((left < before).any()):
            asked, written = _between(order, count - before, count - left, width)
            known = codes.gather(1, entering).masked_fill(~real, -1)
            given = (known, entering, asked)
            logits = decoder.extend(*(each.repeat(copies, 1) for each in given))
            if sampling.is_guided:
                logits = guide(logits, sampling.guidance(step / max(num_steps - 1, 1)))
            chosen = sampling.choose(logits, uniforms.gather(1, asked))
            codes[images[:, : asked.shape[1]][written], asked[written]] = chosen[written]
            entering, real = asked, written
        told(step + 1, num_steps, codes)
    return codes


def left_unknown(wanted: Tensor, num_steps: int) -> Iterator[Tensor]:
    """How many of `wanted` codes, int64 `[n]`, are unknown after each step: it falls as a cosine (Chang et
    al. 2022, section 3.2), by one at least.
    """
    left = wanted
    for step in range(1, num_steps + 1):
        share = math.cos(0.5 * math.pi * step / num_steps)
        left = torch.floor(wanted * share + 1e-6).long().minimum(left - 1).clamp_min(0)
        yield left


def known_when_written(ranks: Tensor, given: Tensor, num_steps: int) -> Tensor:
    """How many codes `write_in_parallel` knows when it writes each, int64 `[n, N]`, of which `ranks` are
    known before it in the end, and the first `given` `[n]` from the start.
    """
    before, known = torch.zeros_like(ranks), given
    for left in left_unknown(ranks.shape[1] - given, num_steps):
        before = torch.where(ranks >= known[:, None], known[:, None], before)
        known = ranks.shape[1] - left
    return before


def _between(order: Tensor, start: Tensor, stop: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Elements `start` to `stop` (int64 `[n]`), at most `width`, of each row of `[n, N]`, and which of them
    are not filling: `[n, width]` both.
    """
    numbers = start[:, None] + torch.arange(width, device=order.device)
    return order.gather(1, numbers.clamp_max(order.shape[1] - 1)), numbers < stop[:, None]


def spread(rows: int, columns: int, depth: int) -> Tensor:
    """When each code of a grid is written, float32 `[rows · columns · depth]` in [0, 1): at any time those
    written lie evenly over the grid, and a place's own codes far apart in time. At depth 1 each of the second
    half has all its neighbours written before it.

    Codes that are written at once are drawn independently of each other: neighbours should not be (Besnier
    et al. 2025). The order of the places is that of a dither matrix (Bayer 1973), for any number of rows and
    columns. It is the same for all images, which is quicker to learn than an order of each.
    """
    bits = (max(rows, columns) - 1).bit_length()
    start = 2**bits // 4  # the first places are not at the edge
    down, across = torch.arange(rows)[:, None] + start, torch.arange(columns) + start
    across = across + 2 * ((down ^ across) & 1)  # the second half begins far from where the first ended
    numbers = torch.zeros(rows, columns, dtype=torch.int64)
    for bit in range(bits):
        numbers = 4 * numbers + 2 * ((down ^ across) >> bit & 1) + (down >> bit & 1)
    moments = numbers.flatten().argsort().argsort() / (rows * columns)
    moments = (moments[:, None] + torch.arange(depth) / depth).remainder(1).flatten()
    return moments.argsort(stable=True).argsort() / len(moments)  # no two at once


def given_in_training(
    rows: int, columns: int, depth: int, count: int, share: float, rng: torch.Generator
) -> Tensor:
    """Codes that are given to a model that learns to fill, bool `[count, rows · columns · depth]`: in a
    `share` of the images a rectangle of random sides, all but it, or places here and there; in the others
    none.
    """

    def spans(side: int) -> Tensor:
        ends = torch.rand(2, count, 1, generator=rng, device=rng.device) * side
        middles = torch.arange(side, device=rng.device) + 0.5
        return (middles > ends.amin(0)) & (middles < ends.amax(0))

    inside = spans(rows)[:, :, None] & spans(columns)[:, None]
    chosen, kind, dots = torch.rand(3, count, 1, 1, generator=rng, device=rng.device)
    scattered = torch.rand(count, rows, columns, generator=rng, device=rng.device) < dots
    given = torch.where(kind < 1 / 3, scattered, inside ^ (kind > 2 / 3)) & (chosen < share)
    given &= ~given.flatten(1).all(1)[:, None, None]  # something is left to write
    codes: Tensor = given[..., None].expand(-1, -1, -1, depth).flatten(1)
    return codes
