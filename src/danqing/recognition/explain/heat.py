"""Heat over an image: pictures of how much each place counts."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

FOR, AGAINST = (185, 58, 37), (31, 102, 144)
"""The colours of what speaks for and against an output."""
_FAINT = 0.35
"""How much of an image is left under no heat, as grey, so that colours stand out."""
_BRIGHTEST = 0.995
"""The quantile of the values that has the full colour."""


class Heat(NamedTuple):
    """How much each place of an image counts for a label, or attends to a word.

    share: the probability of the label, or the share of all attention. values: as `overlay` takes them.
    """

    name: str
    share: float
    values: Tensor


def overlay(image: NDArray[np.uint8], heat: Tensor, *, most: float | None = None) -> NDArray[np.uint8]:
    """Draw heat over an image, uint8 `[h, w, 3]`.

    image: uint8 `[h, w, c]`. heat: `[rows, columns]` or `[c, rows, columns]`, whose channels are added up;
    negative values speak against. most: the value that has the full colour, by default one of the highest.
    """
    values = heat.detach().float().cpu()
    values = values.sum(0) if values.dim() == 3 else values
    height, width = image.shape[:2]
    if tuple(values.shape) != (height, width):
        values = F.interpolate(values[None, None], (height, width), mode="bilinear", align_corners=False)[
            0, 0
        ]
    largest = most if most is not None else float(torch.quantile(values.abs().flatten(), _BRIGHTEST))
    strength = (values / max(largest, 1e-12)).clamp(-1, 1).numpy()[..., None]
    colours = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    grey = colours.mean(axis=2, keepdims=True) * _FAINT + 255 * (1 - _FAINT)
    tint = np.where(strength >= 0, np.array(FOR), np.array(AGAINST))
    mixed = grey + (tint - grey) * np.abs(strength)
    found: NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return found
