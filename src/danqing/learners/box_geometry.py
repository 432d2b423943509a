"""Boxes as tensors: overlaps, the choice of places that learn a box, and the removal of duplicates."""

from typing import NamedTuple

import torch
from torch import Tensor

from danqing.data.boxes import areas


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the overlaps of boxes, plain and generalized.

    boxes, others: `[..., 4]` left, top, right, bottom, broadcast against each other.
    The overlap is intersection over union, in [0, 1]. The generalized one is that minus the share of the
    smallest box around both which neither covers, in [-1, 1] (Rezatofighi et al. 2019, algorithm 1).
    """
    inner = torch.cat(
        [torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])], -1
    )
    outer = torch.cat(
        [torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])], -1
    )
    shared, around = areas(inner), areas(outer)
    union = areas(boxes) + areas(others) - shared
    overlap = shared / union.clamp_min(1e-6)
    return overlap, overlap - (around - union) / around.clamp_min(1e-6)


def places(rows: int, columns: int, stride: float, device: torch.device) -> Tensor:
    """Return the centres of the cells of a map.

    They are `[rows * columns, 2]`, x and y in pixels.
    """
    ys, xs = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) * stride,
        (torch.arange(columns, device=device) + 0.5) * stride,
        indexing="ij",
    )
    return torch.stack([xs, ys], -1).view(-1, 2)


class Assigned(NamedTuple):
    """What each place learns.

    is_positive: `[n, places]`, whether it learns a box. which: `[n, places]`, which of the image's.
    """

    is_positive: Tensor
    which: Tensor


def assign(centres: Tensor, boxes: Tensor, is_box: Tensor, radius: float) -> Assigned:
    """Choose the places that learn each box: those around its centre.

    A place learns a box if it is at most `radius` pixels from its centre along either axis, whether it is
    inside of the box or not, so that small objects have as many places as large ones. Of several boxes it
    learns the smallest.
    centres: `[places, 2]`. boxes: `[n, most, 4]`. is_box: `[n, most]`, false for padding.
    """
    if not boxes.shape[1]:
        none = torch.zeros(len(boxes), len(centres), dtype=torch.long, device=boxes.device)
        return Assigned(none.bool(), none)
    middle = (boxes[..., :2] + boxes[..., 2:])[:, None] / 2  # [n, 1, most, 2]
    distance = (centres[None, :, None] - middle).abs().amax(-1)
    near = (distance <= radius) & is_box[:, None]  # [n, places, most]
    sizes = areas(boxes)[:, None].expand(near.shape).masked_fill(~near, torch.inf)
    return Assigned(near.any(-1), sizes.argmin(-1))


def without_duplicates(boxes: Tensor, classes: Tensor, most_overlap: float) -> Tensor:
    """Return which boxes remain after non-maximum suppression, as indices in their order.

    boxes: `[m, 4]`, the best first. classes: `[m]`. A box is removed if a better one of its class overlaps it
    by more than `most_overlap`.
    """
    overlap, _ = overlaps(boxes[:, None], boxes[None])
    clash = (overlap > most_overlap) & (classes[:, None] == classes[None])
    removed = torch.zeros(len(boxes), dtype=torch.bool)
    clash, kept = clash.cpu(), list[int]()
    for number in range(len(boxes)):
        if not removed[number]:
            kept.append(number)
            removed |= clash[number]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)
