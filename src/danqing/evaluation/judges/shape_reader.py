"""What an image of the set `shapes` shows, read back from its pixels by measuring: nothing is learnt."""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.data.builtin import shapes
from danqing.images import Pixels

_FAINTEST = 60.0
"""Pixels nearer to the ground than this, by Euclid in levels, do not say what colour a figure has."""
_ONE_COLOUR = 0.8
"""The share of a group that must have one colour for it to be the group's."""
_LEAST_AREA, _MOST_AREA = 0.5, 1.6
"""Figures are taken for figures from this part of the smallest area to this multiple of the largest."""
_UNLIKE = 0.4
"""A figure is not a shape if its squared difference from the shape is a larger share of its own square."""
_CLEARLY = 0.5
"""One figure of a group is another shape than the others if that fits it so much better."""
_BLURS = (0.0, 0.7, 1.1)
"""Standard deviations in pixels: a decoder may have drawn a figure less sharply."""
_NOISE, _FAINTEST_COVERED = 0.05, 0.2
"""Less of a pixel is not covered; where no pixel is covered by twice the latter, there is no figure."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Each attribute as in `shapes.Combination`, None where it cannot be read."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    place: tuple[int, int] | None = None
    count: int | None = None


class _Figure(NamedTuple):
    """One figure: its covered share of each pixel around it, where that window begins (left, top), its
    centre of mass and its area, in pixels.
    """

    covered: NDArray[np.float64]
    corner: tuple[int, int]
    centroid: tuple[float, float]
    area: float


def read(image: Pixels) -> Reading:
    """Read the attributes that an image shows.

    image: uint8 `[h, w, c]` of 3 or 4 channels; alpha is ignored.

    Exact on everything that `shapes` draws from 24 pixels a side on. Of a group that is not alike in colour,
    shape or size, that attribute is None; of an image without figures, all are.
    """
    colour, covered = _segmented(image[:, :, :3].astype(np.float64))
    size = (image.shape[1], image.shape[0])
    figures = _figures(covered, min(size))
    if not figures:
        return Reading()
    shape = _shape(figures)
    count = len(figures) if len(figures) in shapes.COUNTS else None
    return Reading(colour, shape, _size(figures, min(size)), _place(figures, shape, size), count)


def _segmented(pixels: NDArray[np.float64]) -> tuple[str | None, NDArray[np.float64]]:
    """The colour of the figures, and how much of each pixel they cover, `[h, w]` in [0, 1].

    A pixel on an edge is a mixture: each is taken for ground + a (colour - ground) with the colour that
    leaves least over.
    """
    ground = np.median(pixels, (0, 1))  # figures cover less than half of an image
    towards = np.array(list(shapes.COLOURS.values())) - ground  # [colours, 3]
    away = pixels - ground
    shares = away @ towards.T / np.square(towards).sum(1)  # [h, w, colours]
    left = np.square(away[:, :, None] - np.clip(shares, 0, 1.1)[..., None] * towards).sum(-1)
    nearest = left.argmin(-1)
    covered = np.clip(np.take_along_axis(shares, nearest[..., None], -1)[..., 0], 0, 1)
    strength = np.sqrt(np.square(away).sum(-1))
    votes = np.bincount(
        nearest.ravel(), np.where(strength > _FAINTEST, strength, 0).ravel(), len(shapes.COLOURS)
    )
    winner = int(votes.argmax())
    is_one = votes[winner] > 0 and votes[winner] >= _ONE_COLOUR * votes.sum()
    return tuple(shapes.COLOURS)[winner] if is_one else None, np.where(covered < _NOISE, 0, covered)


def _figures(covered: NDArray[np.float64], side: int) -> list[_Figure]:
    """The figures of an image; fragments nearer to one another than two figures can be are one."""
    widest = (shapes.PITCH + shapes.RADII["small"]) * side
    level = covered.max() / 2  # of faint or thin figures no pixel is covered wholly
    mask = covered >= max(level, _FAINTEST_COVERED)
    centres = _merged(_parts(covered, mask, widest), shapes.PITCH * side / 2)
    if not len(centres):
        return []
    rows, columns = np.indices(covered.shape)
    reach = (shapes.PITCH / 2 + 0.03) * side
    across, down = columns + 0.5 - centres[:, 0, None, None], rows + 0.5 - centres[:, 1, None, None]
    owner = (across**2 + down**2).argmin(0)
    figures = []
    for number in range(len(centres)):
        is_near = (owner == number) & (np.maximum(abs(across[number]), abs(down[number])) <= reach)
        own = np.where(is_near, covered, 0)
        area = float(own.sum())
        if area < _LEAST_AREA * min(_AREAS.values()) * (shapes.RADII["small"] * side) ** 2:
            continue
        x, y = float((own * (columns + 0.5)).sum() / area), float((own * (rows + 0.5)).sum() / area)
        ys, xs = np.nonzero(is_near)
        top, left = int(ys.min()), int(xs.min())
        window = own[top : int(ys.max()) + 1, left : int(xs.max()) + 1]
        figures.append(_Figure(window, (left, top), (x, y), area))
    return figures


def _parts(covered: NDArray[np.float64], mask: NDArray[np.bool_], widest: float) -> NDArray[np.float64]:
    """Parts of what is covered by half or more: their centres and sizes, `[parts, 3]` of x, y and pixels.

    A part wider than any figure is several that touch: it falls apart where less is covered.
    """
    found: list[NDArray[np.float64]] = []
    rows, columns = np.nonzero(mask)
    labels = _connected(mask)[rows, columns]
    order = labels.argsort(kind="stable")  # noise has thousands of parts: each looks at its own pixels alone
    for own in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []:
        ys, xs = rows[own], columns[own]
        level = covered[ys, xs].min() + 0.05
        if max(np.ptp(xs), np.ptp(ys)) >= widest and level < 0.95:
            part = np.zeros_like(mask)
            part[ys, xs] = covered[ys, xs] >= level
            found.append(_parts(covered, part, widest))
        else:
            found.append(np.array([[xs.mean() + 0.5, ys.mean() + 0.5, len(xs)]]))
    return np.concatenate([np.empty((0, 3)), *found])


def _connected(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each connected part of a mask, the same for all its pixels, 0 elsewhere."""
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # each pixel takes the largest number beside it until none changes
        padded = np.pad(labels, 1)
        beside = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        spread = np.where(mask, np.maximum.reduce(beside), 0)
        spread = np.where(mask, spread.ravel()[spread - 1], 0)  # and what the pixel of that number has by now
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def _merged(parts: NDArray[np.float64], nearest: float) -> NDArray[np.float64]:
    """Centres `[n, 2]` of parts, where those nearer than `nearest` to a larger one have joined it."""
    centres: list[NDArray[np.float64]] = []
    for part in parts[np.argsort(-parts[:, 2], kind="stable")]:
        for place, other in enumerate(centres):
            if math.hypot(*(part[:2] - other[:2])) < nearest:
                pixels = part[2] + other[2]
                joined = (part[:2] * part[2] + other[:2] * other[2]) / pixels
                centres[place] = np.append(joined, pixels)
                break
        else:
            centres.append(part)
    return np.array(centres).reshape(-1, 3)[:, :2]


def _size(figures: list[_Figure], side: int) -> str | None:
    """By the area, which tells sizes whatever the shape is."""
    small, large = ((radius * side) ** 2 for radius in shapes.RADII.values())
    least, most = min(_AREAS.values()), max(_AREAS.values())
    border = math.sqrt(most * small * least * large)
    if any(figure.area > _MOST_AREA * most * large for figure in figures):
        return None
    said = {"small" if figure.area < border else "large" for figure in figures}
    return said.pop() if len(said) == 1 else None


def _shape(figures: list[_Figure]) -> str | None:
    """The shape that fits all figures best, unless it does not fit one of them."""
    misfits = np.array([[_misfit(figure, shape) for shape in shapes.SHAPES] for figure in figures])
    best = int(misfits.mean(0).argmin())
    own = misfits[:, best]
    if (own > _UNLIKE).any() or (misfits.min(1) < _CLEARLY * own - 0.02).any():
        return None
    return shapes.SHAPES[best]


def _misfit(figure: _Figure, shape: str) -> float:
    """How far a figure is from a shape of its area and centre: squared difference over square."""
    radius, (x, y) = math.sqrt(figure.area / _AREAS[shape]), _offset(shape)
    height, width = figure.covered.shape
    centre = (
        figure.centroid[0] - figure.corner[0] - x * radius,
        figure.centroid[1] - figure.corner[1] - y * radius,
    )
    ideal = shapes.coverage(shape, radius, centre, (width, height))
    square = float(np.square(figure.covered).sum())
    differences = (np.square(_blurred(ideal, blur) - figure.covered).sum() for blur in _BLURS)
    return float(min(differences)) / square


def _blurred(image: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    if not deviation:
        return image
    return _kernel(image.shape[0], deviation) @ image @ _kernel(image.shape[1], deviation)


@functools.lru_cache(256)
def _kernel(side: int, deviation: float) -> NDArray[np.float64]:
    """A Gaussian as a matrix that is its own transpose."""
    apart = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.exp(-np.square(apart) / (2 * deviation**2))
    normalised: NDArray[np.float64] = weights / (deviation * math.sqrt(2 * math.pi))
    return normalised


def _place(figures: list[_Figure], shape: str | None, size: tuple[int, int]) -> tuple[int, int]:
    """Where the middle of the group is, by the nearest of the middles that a group as wide can have."""
    side = min(size)
    radius = math.sqrt(np.mean([figure.area for figure in figures]) / 2.4)
    offset = (0.0, 0.0) if shape is None else _offset(shape)
    place = []
    for axis in (0, 1):
        centres = [figure.centroid[axis] - offset[axis] * radius for figure in figures]
        middle, reach = (min(centres) + max(centres)) / 2, (max(centres) - min(centres)) / 2 + radius
        inset = max(shapes.OUTWARD * size[axis], shapes.MARGIN * side + reach)
        border = (inset + size[axis] / 2) / 2
        place.append(-1 if middle < border else 1 if middle > size[axis] - border else 0)
    return place[0], place[1]


@functools.cache
def _offset(shape: str) -> tuple[float, float]:
    """From the middle of a shape to its centre of mass, in radii, y downwards."""
    drawn = shapes.coverage(shape, 100.0, (128, 128), (256, 256))
    x, y = ((drawn.sum(axis) * (np.arange(256) + 0.5)).sum() / drawn.sum() for axis in (0, 1))
    return float(x - 128) / 100, float(y - 128) / 100


_AREAS = {
    shape: float(shapes.coverage(shape, 100.0, (128, 128), (256, 256)).sum()) / 1e4 for shape in shapes.SHAPES
}
"""In squared radii."""
