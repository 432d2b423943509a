"""A discriminator that judges an image patch by patch (Isola et al. 2017, section 3.2.2).

Each of its logits sees a part of the image, so that it teaches texture and not what the image shows.
"""

import itertools

from torch import Tensor, nn

from danqing.nets.autoencoders import activate, convolution
from danqing.nets.layers import pad_to_even


class PatchDiscriminator(nn.Module):
    """Logits of patches, high where a patch looks real.

    From images `[n, c, h, w]` of any height and width to float32 `[n, rows, columns]`.

    layers: strided 4×4 convolutions, each of which halves the sides and doubles the `features` (up to eight
        times).
    There is no normalisation: a patch's logit depends on that patch alone.
    """

    def __init__(self, channels: int, *, features: int, layers: int) -> None:
        super().__init__()
        widths = [channels, *(features * min(2**i, 8) for i in range(layers))]
        self.shrink = nn.ModuleList(
            nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in itertools.pairwise(widths)
        )
        for parameter in self.shrink.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, a=0.1)
        self.mix = convolution(widths[-1], widths[-1])
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for layer in self.shrink:
            h = activate(layer(pad_to_even(h)))
        logits: Tensor = self.last(activate(self.mix(h)))
        return logits.squeeze(1).float()
