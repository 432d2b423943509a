"""A network that turns images into images, and heads that compare their patches.

There are convolutions alone, without normalisation. A pixel of the output depends on the pixels around it and
not on the rest of the image, so that tiles of an image fit together.
"""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.gan_modern import AFTER_ACTIVATION, SLOPE, doubled, start
from danqing.nets.recomputing import Recomputes


class Translator(nn.Module):
    """A convolutional network that computes x + f(x) for images x.

    f has an encoder, residual blocks and a decoder, and starts at zero. Images `[n, c, h, w]` of any height
    and width become images of the same shape, float32 and not bounded.

    widths: channels at each resolution, from fine to coarse; each has half the sides of the one before.
    blocks: at the coarsest resolution.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.widths, pairs = tuple(widths), list(itertools.pairwise(widths))
        self.stride = 2 ** len(pairs)
        self.first = _convolution(channels, widths[0])
        self.down = nn.ModuleList(_convolution(fine, coarse, stride=2) for fine, coarse in pairs)
        self.blocks = nn.ModuleList(_Block(widths[-1], blocks) for _ in range(blocks))
        self.change = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in reversed(pairs))
        self.up = nn.ModuleList(_convolution(fine, fine) for fine, _ in reversed(pairs))
        self.last = _convolution(widths[0], channels)
        start(self.first)
        for layer in (*self.down, *self.change, *self.up):
            start(layer, AFTER_ACTIVATION)
        start(self.last, 0.0)

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Return the channels of each of `maps`."""
        return (*self.widths, self.widths[-1])

    @property
    def receptive_radius(self) -> int:
        """Return how far away, in pixels, an input may affect an output."""
        coarse = self.stride
        encoder = 1 + sum(2**level for level in range(len(self.down)))
        decoder = 1 + sum(2**level + 2 ** (level + 1) for level in range(len(self.up)))
        return int(encoder + 2 * len(self.blocks) * coarse + decoder + coarse)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's maps, and that after half of the blocks.

        The encoder has one map of each resolution.
        """
        maps = self._encoded(images)
        h = maps[-1]
        for block in self.blocks[: self._half]:
            h = block(h)
        return [*maps, h]

    def forward(self, images: Tensor) -> Tensor:
        return self.with_maps(images)[0]

    def with_maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Translate images; return them, and what `maps` returns of the inputs."""
        maps = self.maps(images)
        h = maps[-1]
        for block in self.blocks[self._half :]:
            h = block(h)
        for change, up in zip(self.change, self.up, strict=True):
            h = up(_active(doubled(change(h))))
        change_of_pixels = self.last(_active(h))[..., : images.shape[-2], : images.shape[-1]]
        return images.float() + change_of_pixels.float(), maps

    @property
    def _half(self) -> int:
        return len(self.blocks) // 2

    def _encoded(self, images: Tensor) -> list[Tensor]:
        """Return the maps before the blocks, with sides in multiples of the coarsest pixel, two at least."""
        height, width = (max(-(-side // self.stride), 2) * self.stride - side for side in images.shape[-2:])
        x = F.pad(images, (0, width, 0, height), mode="replicate") if height or width else images
        maps = [self.first(x)]
        for down in self.down:
            maps.append(down(_active(maps[-1])))
        return maps


class PatchHeads(nn.Module):
    """Small networks that turn places in maps into unit vectors.

    There is one network for each map; the vectors have length 1.

    widths: channels of the maps. size: of the vectors.
    """

    def __init__(self, widths: Sequence[int], size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size)) for width in widths
        )

    def forward(self, maps: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Return float32 vectors `[n, p, size]` of each map `[n, c, h, w]`.

        places: of each map, int64 `[p]` in [0, h * w).
        """
        vectors = []
        for head, values, chosen in zip(self.heads, maps, places, strict=True):
            patches = values.flatten(2)[:, :, chosen].transpose(1, 2)
            vectors.append(F.normalize(head(patches).float(), dim=2))
        return vectors


def _active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3×3 convolution that mirrors the image at its edges."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="reflect")


class _Block(Recomputes):
    """x + layers(x): two 3×3 convolutions, of which the second starts at zero (as in `gan_modern.Block`)."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.first, self.last = _convolution(width, width), _convolution(width, width)
        start(self.first, AFTER_ACTIVATION * blocks**-0.5)
        start(self.last, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(_active(self.first(_active(x))))
        return out
