"""Copies of images: compressed again, cropped a little, mirrored or resized.

Three steps, each with fewer pairs than the one before: neighbours by a small picture, the best of a few
crops of one image on the other, and an alignment of both whose fine structure must agree.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.progress import ProgressCallback

SIDE, THUMB = 12, 32
"""Pixels a side of the small pictures that are searched, and of those that are aligned."""
_CROP = 0.9
_OFFSETS = (0.0, 0.5, 1.0)
_CROPS = [(0.0, 0.0, 1.0)] + [((1 - _CROP) * x, (1 - _CROP) * y, _CROP) for y in _OFFSETS for x in _OFFSETS]
"""Left, top and side of the whole image and of crops, as shares of its sides."""
_CENTRE = 5
_MIRRORED = [0] + [1 + 3 * y + (2 - x) for y in range(3) for x in range(3)]
"""The crop of a mirrored image that shows what each crop shows."""
_NEIGHBOURS, _BLOCK, _PAIRS = 6, 1024, 2048
_COARSE = 0.9
"""The lowest correlation of small pictures for which a pair is aligned."""
_ITERATIONS, _LONGEST_STEP = 6, 0.06
_WINDOW = 7
"""Fine structure is what a mean over so many pixels removes."""
_ALIKE, _DIFFERENT, _COLOUR = 0.87, 0.3, 0.1
"""Copies: the least correlation of the fine structure, and the most that its energy and any colour differ."""
_FAINT = 2e-5
"""Images whose fine structure has less energy than this are too smooth to compare."""


class Described(NamedTuple):
    """What images are compared by: small pictures of crops, and a thumbnail.

    crops: float16 `[n, crops, SIDE * SIDE]`, centred, of length 1. thumbs: uint8 `[n, 3, THUMB, THUMB]`.
    """

    crops: Tensor
    thumbs: Tensor


class Pairs(NamedTuple):
    """Images that are copies of one another.

    rows: int64 `[m, 2]`, the smaller first. mirrored: bool `[m]`. similarity: float32 `[m]` in [0, 1].
    """

    rows: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    similarity: NDArray[np.float32]


def describe(images: Tensor) -> Described:
    """Describe images for `find_copies`.

    images: `[n, 3, h, w]` float32 in [0, 1].
    """
    grey = F.interpolate(images.mean(1, keepdim=True), (2 * THUMB, 2 * THUMB), mode="area")
    side, crops = grey.shape[2], []
    for left, top, share in _CROPS:
        x, y, size = round(left * side), round(top * side), round(share * side)
        small = F.interpolate(grey[:, :, y : y + size, x : x + size], (SIDE, SIDE), mode="area").flatten(1)
        crops.append(F.normalize(small - small.mean(1, keepdim=True), dim=1))
    thumbs = F.interpolate(images, (THUMB, THUMB), mode="area")
    return Described(torch.stack(crops, 1).half(), (thumbs * 255).round().byte())


def find_copies(described: Described, on_progress: ProgressCallback | None = None) -> Pairs:
    """Find the pairs of images that are near-duplicates.

    The first step compares all images with all others, so its time grows with the square of their number.
    """
    candidates = _candidates(described.crops, on_progress)
    coarse, crop = _best_crops(described.crops, candidates)
    kept = coarse >= _COARSE
    candidates, crop = candidates[kept], crop[kept]
    similarity = torch.cat(
        [torch.zeros(0)]
        + [
            _similarity(described.thumbs, candidates[start : start + _PAIRS], crop[start : start + _PAIRS])
            for start in range(0, len(candidates), _PAIRS)
        ]
    )
    found = similarity > 0
    rows, values = candidates[found], similarity[found]
    order = np.lexsort((-values.numpy(), rows[:, 1].numpy(), rows[:, 0].numpy()))
    rows, values = rows[order], values[order]
    first = np.ones(len(rows), bool)  # of a pair that is alike both ways, the better match counts
    first[1:] = (rows[1:, :2] != rows[:-1, :2]).any(1).numpy()
    return Pairs(rows[first, :2].numpy(), rows[first, 2].numpy().astype(bool), values[first].numpy())


def _candidates(crops: Tensor, on_progress: ProgressCallback | None) -> Tensor:
    """Return pairs that may be copies, `[p, 3]`: rows in order, and whether one is mirrored."""
    count = len(crops)
    k = min(_NEIGHBOURS, count - 1)
    if k < 1:
        return torch.empty(0, 3, dtype=torch.int64)
    base, found = crops[:, 0].float(), []
    for start in range(0, count, _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, count))
        for crop in (0, _CENTRE):
            for mirrored in (False, True):
                queries = crops[rows, crop].float()
                alike = (_mirror(queries) if mirrored else queries) @ base.T
                alike[torch.arange(len(rows)), rows] = -torch.inf
                others = alike.topk(k, dim=1).indices
                ones = rows[:, None].expand_as(others)
                pairs = torch.stack([torch.minimum(ones, others), torch.maximum(ones, others)], -1)
                side = torch.full((pairs[..., :1].numel(), 1), int(mirrored))
                found.append(torch.cat([pairs.reshape(-1, 2), side], 1))
        if on_progress:
            on_progress(int(rows[-1]) + 1, count, "Looking for copies")
    unique: Tensor = torch.unique(torch.cat(found), dim=0)
    return unique


def _mirror(small: Tensor) -> Tensor:
    """Mirror small pictures `[..., SIDE * SIDE]`."""
    return small.reshape(*small.shape[:-1], SIDE, SIDE).flip(-1).flatten(-2)


def _best_crops(crops: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return how well the best crop of an image fits the other, and which it is, `[p]`.

    Crops of the first image have the numbers from 0, those of the second follow.
    """
    best, numbers = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(candidates), _PAIRS):
        one, other, mirrored = candidates[start : start + _PAIRS].T
        first, second = crops[one].float(), crops[other].float()
        flipped = mirrored.bool()
        first[flipped] = _mirror(first[flipped][:, _MIRRORED])
        fits = torch.cat([(first * second[:, :1]).sum(2), (first[:, :1] * second).sum(2)], 1)
        value, number = fits.max(1)
        best.append(value)
        numbers.append(number)
    return torch.cat(best), torch.cat(numbers)


def _similarity(thumbs: Tensor, candidates: Tensor, crop: Tensor) -> Tensor:
    """Return the similarity of pairs once they are aligned, 0 if they are not copies."""
    one, other, mirrored = candidates.T
    first, second = thumbs[one].float() / 255, thumbs[other].float() / 255
    first = torch.where(mirrored.bool()[:, None, None, None], first.flip(3), first)
    place = _aligned(first.mean(1, keepdim=True), second.mean(1, keepdim=True), _beginnings()[crop])
    moved, inside, _ = _moved(first, place)
    radius = _WINDOW // 2
    inner = (F.avg_pool2d(inside, _WINDOW, 1, radius) > 0.999).float()
    fine, reference = _fine(moved) * inner, _fine(second) * inner
    energy = fine.square().sum((1, 2, 3)), reference.square().sum((1, 2, 3))
    alike = (fine * reference).sum((1, 2, 3)) / (energy[0] * energy[1]).sqrt().clamp_min(1e-12)
    unlike = (fine - reference).square().sum((1, 2, 3)) / (0.5 * (energy[0] + energy[1])).clamp_min(1e-12)
    counted = 3 * inner.sum((1, 2, 3)).clamp_min(1)
    colour = (F.avg_pool2d((moved - second) * inside, 4)).abs().amax((1, 2, 3))
    is_copy = (alike >= _ALIKE) & (unlike <= _DIFFERENT) & (colour <= _COLOUR)
    is_copy &= torch.minimum(*energy) / counted >= _FAINT
    return torch.where(is_copy, alike.clamp(0, 1), 0.0)


def _beginnings() -> Tensor:
    """Return where the alignment of each crop begins, `[2 * crops, 4]`."""
    places = []
    for left, top, share in _CROPS:
        places.append([math.log(share), math.log(share), 2 * left + share - 1, 2 * top + share - 1])
    of_first = torch.tensor(places)
    return torch.cat([of_first, torch.cat([-of_first[:, :2], -of_first[:, 2:] / of_first[:, :2].exp()], 1)])


def _moved(images: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift images; return them, where they are defined, and their grid.

    place: `[n, 4]`, the logarithm of the scale across and down, and the shift, where the image reaches from
    -1 to 1.
    """
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = place[:, 0].exp(), place[:, 1].exp()
    matrix[:, :, 2] = place[:, 2:]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(3)[:, None].float()
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), inside, grid


def _aligned(first: Tensor, second: Tensor, place: Tensor) -> Tensor:
    """Return where the first image best covers the second, `[n, 4]`.

    Gauss-Newton steps on the squared difference (Lucas and Kanade 1981), in which brightness and contrast of
    the second image are free.
    """
    first, second = _smoothed(first), _smoothed(second)
    per_unit = first.shape[2] / 4  # half of the difference over two pixels, in units of half the side
    across = F.pad(first, (1, 1, 0, 0), mode="replicate").unfold(3, 3, 1)
    down = F.pad(first, (0, 0, 1, 1), mode="replicate").unfold(2, 3, 1)
    slopes = (across[..., 2] - across[..., 0]) * per_unit, (down[..., 2] - down[..., 0]) * per_unit
    stacked, damping = torch.cat([first, *slopes], 1), 1e-4 * torch.eye(6)
    for _ in range(_ITERATIONS):
        seen, inside, grid = _moved(stacked, place)
        offset = (grid - place[:, None, None, 2:]).permute(0, 3, 1, 2)  # the scaled place of each pixel
        slope = seen[:, 1:]
        columns = torch.cat([slope * offset, slope, torch.ones_like(inside), second], 1) * inside
        columns = columns.flatten(2)
        squares = columns @ columns.transpose(1, 2) + damping
        step = torch.linalg.solve(
            squares, (columns @ (seen[:, :1] * inside).flatten(2).transpose(1, 2))[..., 0]
        )
        place = place - step[:, :4].clamp(-_LONGEST_STEP, _LONGEST_STEP)
    return place


def _smoothed(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _fine(images: Tensor) -> Tensor:
    radius = _WINDOW // 2
    return images - F.avg_pool2d(F.pad(images, (radius,) * 4, mode="reflect"), _WINDOW, 1)
