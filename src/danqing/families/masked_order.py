"""Masked order: when each code of an image is written, several codes per step (Chang et al. 2022).

Codes that are written in one step are drawn independently of each other, so those of a step should lie far
apart (Besnier et al. 2025). `spread` gives that order; `left_unknown` says how many codes each step writes.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def left_unknown(wanted: Tensor, num_steps: int) -> Iterator[Tensor]:
    """Yield how many codes are unknown after each step.

    wanted: how many are unknown at first, int64 `[n]`.
    The number falls as a cosine (Chang et al. 2022, section 3.2), by at least one per step.
    """
    left = wanted
    for step in range(1, num_steps + 1):
        share = math.cos(0.5 * math.pi * step / num_steps)
        left = torch.floor(wanted * share + 1e-6).long().minimum(left - 1).clamp_min(0)
        yield left


def known_when_written(ranks: Tensor, given: Tensor, num_steps: int) -> Tensor:
    """Return how many codes are known when each is written, `[n, N]`.

    ranks: `[n, N]`, the place of each code in the order of writing.
    given: `[n]`, how many codes, the first in that order, are known from the start.
    """
    before, known = torch.zeros_like(ranks), given
    for left in left_unknown(ranks.shape[1] - given, num_steps):
        before = torch.where(ranks >= known[:, None], known[:, None], before)
        known = ranks.shape[1] - left
    return before


def spread(rows: int, columns: int, depth: int) -> Tensor:
    """Return when each code of a grid is written, in [0, 1).

    The result is float32 `[rows · columns · depth]`. At any time the written codes lie evenly over the grid,
    and the codes of one place are far apart in time. At depth 1, each code of the second half is written
    after all its neighbours. The order of the places is that of a dither matrix (Bayer 1973), for any number
    of rows and columns. It is the same for all images, which is faster to learn than an order for each.
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
    """Return which codes are given in training.

    The result is bool `[count, rows · columns · depth]`. A model learns to fill from them. In a `share` of
    the images a rectangle of random sides is given, or all but a rectangle, or scattered places; in the other
    images nothing is given.
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
