"""U-Nets: an encoder's maps at several resolutions, merged into one map at the resolution of the image.

There are convolutions alone, without normalisation over space, so that a value depends on a square of known
size around it and large images can be computed in tiles (after Ronneberger et al. 2015, "U-Net").
"""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.images import with_channels
from danqing.nets.autoencoders import activate, convolution, convolution_block
from danqing.nets.gan_modern import doubled
from danqing.nets.layers import crop
from danqing.pretrained import lite0_trunk


class Encoder(nn.Module):
    """From images to maps, each half as large as the last.

    The first map is as large as the image. Residual blocks work at each resolution but the full one, where a
    block costs most.

    widths: channels of the maps. blocks: at each lower resolution. given: channels of the maps of another
        network from the second resolution on, which are added to what the blocks see; empty for none.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, given: Sequence[int] = ()) -> None:
        super().__init__()
        self.widths, pairs = tuple(widths), list(itertools.pairwise(widths))
        self.first = convolution(channels, widths[0])
        self.down = nn.ModuleList(convolution(fine, coarse, stride=2) for fine, coarse in pairs)
        self.read = nn.ModuleList(
            nn.Conv2d(seen, width, 1) for seen, width in zip(given, widths[1:], strict=False)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(convolution_block(width) for _ in range(blocks))) for width in widths[1:]
        )
        reach = (2**level * (1 + 4 * blocks) for level in range(len(pairs)))
        self.receptive_radius = 1 + sum(reach)

    @property
    def stride(self) -> int:
        """Return how many pixels apart the values of the last map are."""
        return int(2 ** (len(self.widths) - 1))

    def forward(self, images: Tensor, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return the maps of images whose sides are multiples of the stride."""
        maps = [self.first(images)]
        for level, (down, blocks) in enumerate(zip(self.down, self.blocks, strict=True)):
            h = down(activate(maps[-1]))
            if level < len(self.read):
                h = h + self.read[level](given[level])
            maps.append(blocks(h))
        return maps


class TrainedTrunk(nn.Module):
    """The first stages of EfficientNet-Lite0, whose maps help an encoder.

    The weights stay as they are: to learn them too would take more time than the rest of a small network.
    """

    WIDTHS = lite0_trunk.WIDTHS[:4]
    """Channels of the maps, at strides of 2 to 16; a later stage sees hundreds of pixels far."""
    _SCALE = 1 / 7
    """The maps have values of about 7, and then of about 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = lite0_trunk.Lite0().without_head(len(self.WIDTHS))
        self.receptive_radius = self.stages.receptive_radius()
        self.requires_grad_(False)

    def load_published(self) -> None:
        """Take the weights that were trained on ImageNet.

        Raises EvaluationError if they are missing.
        """
        published = lite0_trunk.Lite0().load_published(lite0_trunk.read_published())
        self.stages.load_state_dict(published.without_head(len(self.WIDTHS)).state_dict())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images.

        images: `[n, c, h, w]` in [-1, 1], with sides in multiples of 16; alpha is left out.
        """
        levels = (with_channels(images, 3) + 1) * 127.5
        return [self._SCALE * values for values in self.stages.stages(lite0_trunk.normalized(levels))]


class UNet(nn.Module):
    """An encoder, and a decoder back to the resolution of the image.

    From images `[n, c, h, w]` of any size to `[n, outputs, h, w]` float32.

    widths: channels of the decoder's maps, from fine to coarse; one less than the encoder has maps.
    """

    def __init__(self, encoder: Encoder, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        pairs = list(itertools.pairwise((*widths, encoder.widths[-1])))[::-1]
        seen = encoder.widths[-2::-1]
        self.change = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.lateral = nn.ModuleList(
            nn.Conv2d(one, fine, 1) for one, (fine, _) in zip(seen, pairs, strict=True)
        )
        self.blocks = nn.ModuleList(convolution_block(fine) for fine, _ in pairs)
        self.last = convolution(widths[0], outputs)
        for layer in (*self.change, *self.lateral):
            nn.init.kaiming_normal_(layer.weight, a=0.1)
            layer.weight.data.mul_(0.5**0.5)  # the two are added
        nn.init.zeros_(self.last.weight)

    @property
    def receptive_radius(self) -> int:
        """Return how many pixels away an input may affect an output."""
        decoder = 1 + sum(4 * 2**level for level in range(len(self.blocks)))
        radius: int = self.encoder.receptive_radius + decoder
        return radius

    def forward(self, images: Tensor, trunk: TrainedTrunk | None = None) -> Tensor:
        """Return the outputs.

        trunk: what the encoder sees besides, if it was built for it.
        """
        height, width = images.shape[-2:]
        *maps, h = self.maps(images, trunk)
        for seen, change, lateral, block in zip(
            maps[::-1], self.change, self.lateral, self.blocks, strict=True
        ):
            h = block(doubled(change(activate(h))) + lateral(activate(seen)))
        return crop(self.last(activate(h)).float(), (height, width))

    def maps(self, images: Tensor, trunk: TrainedTrunk | None = None) -> list[Tensor]:
        """Return the encoder's maps of images of any size."""
        height, width = images.shape[-2:]
        multiple = max(self.encoder.stride, 1 if trunk is None else 2 ** len(trunk.WIDTHS))
        below, right = -height % multiple, -width % multiple
        padded = F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
        maps: list[Tensor] = self.encoder(padded, () if trunk is None else trunk(padded))
        return maps
