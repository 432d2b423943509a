"""A head that keeps a discriminator's features rich where there are few images (Liu et al. 2021, FastGAN)."""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.autoencoders import activate, convolution
from danqing.nets.gan_contract import GANShape
from danqing.nets.layers import crop, halvings

DOUBLINGS = 3
"""How often the map of features is doubled, at most."""


class Reconstruction(nn.Module):
    """Draws a small copy of an image from a discriminator's features (section 3.2).

    A discriminator that must keep what an image shows does not learn the few images by heart so soon.
    inputs: channels of the features.
    """

    def __init__(self, shape: GANShape, inputs: int) -> None:
        super().__init__()
        self.sizes = halvings(shape.height, shape.width)[::-1][1 : DOUBLINGS + 1]
        widths = [inputs, *(max(16, inputs >> stage) for stage in range(1, len(self.sizes) + 1))]
        self.stages = nn.ModuleList(convolution(*pair) for pair in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[-1], shape.channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return copies `[n, c, h, w]`.

        They are eight times as large as the map, and at most as large as the image.
        """
        h = activate(features)
        for stage, size in zip(self.stages, self.sizes, strict=True):
            h = activate(stage(crop(F.interpolate(h, scale_factor=2.0), size)))
        copies: Tensor = self.last(h)
        return copies.float()

    def loss(self, features: Tensor, images: Tensor) -> Tensor:
        """Compute the mean absolute error of the copies.

        images: `[n, c, h, w]`, those that the features are of.
        """
        copies = self(features)
        return F.l1_loss(copies, F.interpolate(images.detach(), copies.shape[-2:], mode="area"))
