"""The first and last layers of a network that grows, where each size of its images has its own.

A network begins with its inner levels, which see small images. When a larger size begins, all that it adds
starts at zero: what its level tells the inner ones, and what it adds to their prediction, which is enlarged
by repeating pixels. So the larger network begins as the enlarged smaller one, and the inner levels go on with
what they have learned. (Outputs are summed over sizes as in Karras et al. 2020, StyleGAN2, section 4.1.)
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from danqing.nets.flow.blocks import pad_to_multiple
from danqing.nets.layers import crop, enlarged, shrunk


class SmallSizes(nn.Module):
    """The first and last layers of the smaller sizes.

    Those of the whole size belong to the network itself.
    levels: how often the images of each phase are halved, falling to 0.
    multiple: of pixels, to which images of the whole size are padded.
    first, last: make the layers of a level. The output of the first has the width of the map there.
    """

    def __init__(
        self,
        levels: Sequence[int],
        multiple: int,
        first: Callable[[int], nn.Module],
        last: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.multiple = multiple
        self.first = nn.ModuleDict({str(level): first(level) for level in levels[:-1]})
        self.last = nn.ModuleDict({str(level): last(level) for level in levels[:-1]})

    def seen(self, x: Tensor, entry: int, level: int) -> Tensor:
        """Return images as the first layer of a level reads them.

        They are averaged to its size, and padded.
        x: images of the level `entry`.
        """
        return pad_to_multiple(shrunk(x, level - entry), self.multiple >> level)


def summed(outputs: Sequence[tuple[int, Tensor]], entry: int, size: tuple[int, int]) -> Tensor:
    """Return the sum of the enlarged outputs of several levels.

    outputs: levels, falling to `entry`, with what each adds, perhaps padded.
    size: (height, width) of the level `entry`.
    """
    image, before = None, 0
    for level, output in outputs:
        height, width = (-(-length // 2 ** (level - entry)) for length in size)
        output = crop(output, (height, width))
        if image is not None:
            output = enlarged(image, before - level, (height, width)) + output
        image, before = output, level
    assert image is not None
    return image


def start_at_zero(layer: nn.Module) -> None:
    """Set the weights of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
