"""What makes an image look like a scene in a style: distances between features of a trained network.

Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural Networks", and Johnson et al. 2016,
"Perceptual Losses for Real-Time Style Transfer and Super-Resolution".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Stages = Callable[[Tensor], Sequence[Tensor]]
"""From images `[n, c, h, w]` in [-1, 1] to feature maps, fine ones first."""
CONTENT_STAGE = 2
"""Of the feature maps, the one that says what an image shows: relu3_3 of a VGG16, as in Johnson et al."""
STYLE_STAGES = 4
"""So many feature maps, from the finest, say in which style an image is: relu1_2 to relu4_3 of a VGG16."""


class Terms(NamedTuple):
    """Distances, scalars with a graph: from content, from style, and between neighbours."""

    content: Tensor
    style: Tensor
    variation: Tensor


def gram(features: Tensor) -> Tensor:
    """Return which features occur together, wherever they are, `[n, c, c]` (Johnson et al., equation 3).

    features: `[n, c, h, w]`.
    """
    flat = features.float().flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


class StyleLoss:
    """Compares images with a style, and with the content to keep.

    Each distance is relative to what it is compared with, so that the weights do not depend on how large the
    features of a network are.

    stages: of the network whose features are compared. style: an image `[1, c, h, w]` in [-1, 1].
    """

    def __init__(self, stages: Stages, style: Tensor) -> None:
        self._stages = stages
        with torch.no_grad():
            self._grams = [gram(stage) for stage in stages(style)[:STYLE_STAGES]]

    def content_of(self, images: Tensor) -> Tensor:
        """Return what images show, without gradients."""
        with torch.no_grad():
            return self._stages(images)[CONTENT_STAGE].float()

    def terms(self, made: Tensor, content: Tensor) -> Terms:
        """Return the distances of images `[n, c, h, w]`, averaged over them.

        content: of the images that they were made of, from `content_of`.
        """
        found = self._stages(made)
        is_content = _relative(found[CONTENT_STAGE].float(), content)
        is_style = [
            _relative(gram(stage), wanted.expand(len(made), -1, -1))
            for stage, wanted in zip(found[:STYLE_STAGES], self._grams, strict=True)
        ]
        return Terms(is_content, torch.stack(is_style).mean(), total_variation(made))


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours."""
    across, down = images.diff(dim=3), images.diff(dim=2)
    return across.square().mean() + down.square().mean()


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared distance of each row, relative to the wanted one's square, averaged."""
    distance = (found - wanted).square().flatten(1).sum(1)
    return (distance / wanted.square().flatten(1).sum(1).clamp_min(1e-12)).mean()
