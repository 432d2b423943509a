"""What the networks for flow matching agree on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

from torch import Tensor

Net = Literal["hybrid", "dit", "unet"]


@dataclass(frozen=True, slots=True)
class Given:
    """What the images should show, as tensors.

    Each is None where the model reads nothing of that kind.
    vector: `[n, width]`, of the label, the attributes and the text as a whole.
    tokens: `[n, length, width]`, of each token of the text. known: bool `[n, length]`, where there is one.
    channels: `[n, extra channels, h, w]`, images that the network sees beside its input.
    level: how often the images are halved, of a network that grows.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    known: Tensor | None = None
    channels: Tensor | None = None
    level: int = 0

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with images moved, as the input beside them was."""
        return self if self.channels is None else replace(self, channels=move(self.channels))


@dataclass(frozen=True, slots=True)
class FlowShape:
    """The size of a network.

    channels: of an image. extra_channels: that it sees beside the noisy image.
    widths: channels at each resolution, from fine to coarse; each is half as fine as the one before.
    layers: of the transformer, or residual blocks at each resolution of the U-Net. heads: of attention.
    patch: the side of a token of `dit`, in pixels.
    reads_text: whether attention to the tokens of a text is needed.
    levels: how often the images are halved in each phase of a network that grows, falling to 0.
    """

    channels: int
    extra_channels: int
    widths: tuple[int, ...]
    layers: int
    heads: int
    patch: int = 4
    reads_text: bool = False
    levels: tuple[int, ...] = (0,)

    @property
    def width(self) -> int:
        """Return the width of tokens and of the condition's vector."""
        return self.widths[-1]


class FlowNet(Protocol):
    """A network for flow matching.

    multiple: it pads images whose sides are not multiples of this.
    """

    multiple: int

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict `[n, c, h, w]` from noisy images `x` of that shape.

        t: the time of each image, `[n]` in [0, 1]; 0 is noise.
        s: the time that the prediction is for, `[n]`; equal to `t` unless the model was distilled.
        """
        ...

    def level_of(self, name: str) -> int | None:
        """Return which level a parameter belongs to.

        It is how often the map that it works on is halved; None if it works at every size.
        name: as in `state_dict()`.
        """
        ...
