"""Random views of images, which show the same thing: what self-supervised learning compares.

A view is a crop that is zoomed, mirrored and blurred by two matrix products, one for its rows and one for its
columns, and then recoloured. On a processor this takes less time than one convolution.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from danqing.data.augment import recoloured, weighted_by_alpha


@dataclass(frozen=True, slots=True)
class Changes:
    """How views differ from their image.

    area: the smallest and the largest share of the image that a view shows.
    aspect: a crop is up to this many times wider or taller than the image, in proportion.
    flip: whether half of the views are mirrored.
    blur: up to how many pixels of the view half of the views are blurred.
    colour: saturation, contrast and brightness change by up to this fraction.
    cutout: the sides of a grey square in each view, as a share of the view's; 0 for none.
    """

    area: tuple[float, float] = (0.3, 1.0)
    aspect: float = 4 / 3
    flip: bool = True
    blur: float = 0.0
    colour: float = 0.0
    cutout: float = 0.0


def random_views(images: Tensor, size: tuple[int, int], changes: Changes, rng: torch.Generator) -> Tensor:
    """Draw one view of each image, float32 `[n, c, *size]` in [-1, 1].

    images: `[n, c, h, w]` in [-1, 1]. size: (height, width) of the views. rng: on the device of the images.
    """
    n, device = len(images), images.device
    draws = torch.rand(10, n, generator=rng, device=device)
    smallest, largest = changes.area
    area = smallest + (largest - smallest) * draws[0]
    aspect = torch.exp((2 * draws[1] - 1) * math.log(changes.aspect))
    blur = changes.blur * draws[2] * (draws[3] < 0.5)
    mirrored = (draws[4] < 0.5) & changes.flip
    rows = _sampling((area * aspect).sqrt(), draws[5], images.shape[2], size[0], blur)
    columns = _sampling((area / aspect).sqrt(), draws[6], images.shape[3], size[1], blur)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    with torch.autocast(device.type, enabled=False):
        views = weighted_by_alpha(
            images.float(), lambda pixels: rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)
        ).clamp_(-1, 1)
    if changes.colour:
        views = recoloured(views, changes.colour * (2 * draws[7:10].T - 1))
    if changes.cutout:
        views = views * ~_squares(size, changes.cutout, torch.rand(2, n, generator=rng, device=device))
    return views.contiguous(memory_format=torch.channels_last)


def _sampling(share: Tensor, place: Tensor, side: int, out: int, blur: Tensor) -> Tensor:
    """Return what each pixel of a side gives to each place of a view, `[n, out, side]`; rows add up to 1.

    share: of the side that each view shows. place: where it begins, from 0 to 1.
    Each place averages the pixels around it with a triangle as wide as the larger of a pixel and the distance
    of places, so that no detail is missed where a view is smaller than its crop.
    """
    length = share.clamp(max=1) * side
    step = length / out
    places = torch.arange(out, device=share.device) + 0.5
    centres = (place * (side - length))[:, None] + places * step[:, None] - 0.5  # [n, out]
    reach = step.clamp_min(1) + blur * step
    distance = (torch.arange(side, device=share.device) - centres[:, :, None]).abs()
    weights = (1 - distance / reach[:, None, None]).clamp_min_(0)
    return weights / weights.sum(2, keepdim=True)


def _squares(size: tuple[int, int], share: float, draws: Tensor) -> Tensor:
    """Return which pixels a randomly placed rectangle covers, bool `[n, 1, *size]`."""
    inside = []
    for side, draw in zip(size, draws, strict=True):
        distance = (torch.arange(side, device=draw.device) + 0.5 - side * draw[:, None]).abs()
        inside.append(distance <= share * side / 2)
    covered: Tensor = inside[0][:, :, None] & inside[1][:, None, :]
    return covered[:, None]
