"""Random masks to learn filling from: what a model must paint, and what it is given.

A model fills well what it saw in training, so that masks are of many shapes and often large (Suvorov et al.
2022, "Resolution-robust large mask inpainting with Fourier convolutions", section 2.4).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SHARES = {
    "boxes": 0.25,
    "strokes": 0.25,
    "halves": 0.15,
    "scattered": 0.15,
    "everything": 0.15,
    "nothing": 0.05,
}
"""How often each kind of mask is drawn."""
MOST_BOXES = 4
OUTSIDE = 0.25
"""Share of the box masks that cover what is outside the boxes, as in painting beyond the border."""
MOST_SEGMENTS = 12
STROKE_WIDTH = (0.1, 0.5)
"""Of a stroke, as a share of the shorter side."""
PATCHES = (1, 1, 2, 4, 8)
"""Sides of scattered patches in pixels; single pixels are twice as likely."""
_FINEST = 64
"""Points along the longer side where the distance from a stroke is computed; it is interpolated between."""


def draw_masks(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Draw masks of mixed shapes.

    Returns float32 `[count, 1, height, width]` of {0, 1} on the generator's device, 1 where the model must
    paint. The kind of each mask is drawn by `SHARES`.
    """
    borders = torch.tensor(list(SHARES.values()), device=rng.device).cumsum(0)[:-1]
    kinds = torch.bucketize(_uniform((count,), rng), borders, right=True)
    masks = torch.zeros(count, height, width, dtype=torch.bool, device=rng.device)
    for number, kind in enumerate(SHARES):
        rows = (kinds == number).nonzero()[:, 0]
        if kind == "everything":
            masks[rows] = True
        elif kind in _DRAWN and len(rows):
            masks[rows] = _DRAWN[kind](len(rows), height, width, rng)
    return masks[:, None].float()


def _boxes(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """One to four boxes, the fewer the larger; or all that is outside them."""
    boxes = torch.randint(1, MOST_BOXES + 1, (count, 1), generator=rng, device=rng.device)
    side = 0.1 + 0.9 * _uniform((2, count, MOST_BOXES), rng) * boxes**-0.5
    start = _uniform((2, count, MOST_BOXES), rng) * (1 - side)
    rows, columns = (
        (places >= low[..., None]) & (places < (low + extent)[..., None])
        for places, low, extent in zip(_places(height, width, rng), start, side, strict=True)
    )  # [n, boxes, h] and [n, boxes, w]
    used = torch.arange(MOST_BOXES, device=rng.device) < boxes
    inside = (rows[..., None] & columns[..., None, :] & used[..., None, None]).any(1)
    outside = _uniform((count,), rng) < OUTSIDE
    masks: Tensor = inside ^ outside[:, None, None]
    return masks


def _strokes(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """A thick line with corners, as a hand with a brush draws it."""
    shorter, scale = min(height, width), min(1.0, _FINEST / max(height, width))
    grid = (max(2, round(height * scale)), max(2, round(width * scale)))
    angle = 2 * math.pi * _uniform((count, 1), rng) + torch.cumsum(
        math.pi * (_uniform((count, MOST_SEGMENTS), rng) - 0.5), 1
    )
    length = 0.2 + 0.5 * _uniform((count, MOST_SEGMENTS), rng)
    steps = torch.stack([angle.sin(), angle.cos()], 2) * length[..., None]
    size = torch.tensor([height / shorter, width / shorter], device=rng.device)
    start = _uniform((count, 1, 2), rng) * size
    corners = torch.cat([start, start + steps.cumsum(1)], 1)
    corners = size - (corners.remainder(2 * size) - size).abs()  # [n, corners, 2], mirrored at the border
    rows, columns = (
        places * extent for places, extent in zip(_places(*grid, rng), size.tolist(), strict=True)
    )
    # The distance of each point from each segment, from a to a + along.
    a, along = corners[:, :-1, :, None, None], (corners[:, 1:] - corners[:, :-1])[..., None, None]
    y, x = rows[:, None] - a[:, :, 0], columns[None] - a[:, :, 1]  # [n, segments, h, 1] and [.., 1, w]
    squared = along.square().sum(2).clamp_min(1e-6)
    t = ((y * along[:, :, 0] + x * along[:, :, 1]) / squared).clamp(0, 1)
    distance = (y - t * along[:, :, 0]).square() + (x - t * along[:, :, 1]).square()
    used = torch.randint(1, MOST_SEGMENTS + 1, (count, 1), generator=rng, device=rng.device)
    unused = torch.arange(MOST_SEGMENTS, device=rng.device) >= used
    distance = distance.masked_fill(unused[..., None, None], math.inf).amin(1).sqrt()
    if grid != (height, width):
        distance = F.interpolate(distance[:, None], (height, width), mode="bilinear")[:, 0]
    low, high = STROKE_WIDTH
    radius = (low + (high - low) * _uniform((count,), rng)) / 2
    masks: Tensor = distance <= radius[:, None, None]
    return masks


def _halves(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """One side of a straight line: of a vertical or horizontal one in half of the masks."""
    angle = 2 * math.pi * _uniform((count,), rng)
    quarter = math.pi / 2
    straight = _uniform((count,), rng) < 0.5
    angle = torch.where(straight, (angle / quarter).round() * quarter, angle)[:, None, None]
    rows, columns = _places(height, width, rng)
    along = (rows[:, None] - 0.5) * angle.sin() + (columns - 0.5) * angle.cos()
    extent = 0.5 * (angle.sin().abs() + angle.cos().abs())  # `along` is between -extent and extent
    return along > (_uniform((count, 1, 1), rng) * 1.6 - 0.8) * extent


def _scattered(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Pixels or square patches, each covered with the same probability, which is drawn per mask."""
    sides = torch.tensor(PATCHES, device=rng.device)
    side = sides[torch.randint(len(PATCHES), (count,), generator=rng, device=rng.device)][:, None]
    row = torch.arange(height, device=rng.device) // side  # [n, h]
    column = torch.arange(width, device=rng.device) // side
    draws = _uniform((count, height, width), rng)
    number = torch.arange(count, device=rng.device)[:, None, None]
    share = 0.1 + 0.85 * _uniform((count, 1, 1), rng)
    return draws[number, row[:, :, None], column[:, None, :]] < share


_DRAWN = {"boxes": _boxes, "strokes": _strokes, "halves": _halves, "scattered": _scattered}


def _uniform(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng, device=rng.device)


def _places(height: int, width: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The middles of the rows `[h]` and columns `[w]`, in (0, 1)."""
    rows, columns = ((torch.arange(side, device=rng.device) + 0.5) / side for side in (height, width))
    return rows, columns
