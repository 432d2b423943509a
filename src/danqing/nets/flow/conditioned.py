"""A network for flow matching together with the layers that read its condition."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition
from danqing.nets.attributes import AttributeEmbedding
from danqing.nets.flow.conditioning import LabelVector, TextTokens
from danqing.nets.flow.contract import FlowShape, Given, Net
from danqing.nets.flow.dit import DiT
from danqing.nets.flow.hybrid import Hybrid
from danqing.nets.flow.unet import UNet

_NETS: dict[Net, type[Hybrid | DiT | UNet]] = {"hybrid": Hybrid, "dit": DiT, "unet": UNet}


class ConditionedNet(nn.Module):
    """A network with a layer for each kind of condition.

    A kind has a layer where the model reads it.
    labels: how many classes; 0 for none. text: what reads the output of a text encoder, if anything does.
    """

    def __init__(
        self,
        net: Net,
        shape: FlowShape,
        *,
        labels: int = 0,
        attributes: Sequence[Attribute] = (),
        text: TextTokens | None = None,
    ) -> None:
        super().__init__()
        self.labels = LabelVector(labels, shape.width) if labels else None
        self.attributes = AttributeEmbedding(attributes, shape.width) if attributes else None
        self.text = text
        self.net = _NETS[net](shape)

    @property
    def multiple(self) -> int:
        """Return the multiple to which the network pads the sides of images."""
        found = self.net.multiple
        assert isinstance(found, int)
        return found

    def given(
        self,
        condition: Condition,
        absent: Tensor,
        *,
        encoded: Tensor | None,
        channels: Tensor | None,
        level: int = 0,
    ) -> Given:
        """Turn a condition into tensors, once for all times.

        absent: bool `[n]`, the images whose label, attributes and text are hidden. encoded: what the text
        encoder gave. channels: `[n, extra channels, h, w]`. level: how often the images are halved.
        """
        vectors: list[Tensor] = []
        tokens = known = None
        if self.labels is not None and condition.label is not None:
            vectors.append(self.labels(condition.label, absent))
        values, known_values = condition.attributes, condition.attribute_mask
        if self.attributes is not None and values is not None and known_values is not None:
            vectors.append(self.attributes(values, known_values & ~absent[:, None]))
        if self.text is not None and encoded is not None:
            tokens, known, vector = self.text(encoded, absent)
            vectors.append(vector)
        return Given(sum(vectors[1:], vectors[0]) if vectors else None, tokens, known, channels, level)

    def level_of(self, name: str) -> int | None:
        """Return which level a parameter belongs to, as `FlowNet` says."""
        part, _, inner = name.partition(".")
        return self.net.level_of(inner) if part == "net" else None

    def forward(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict as `FlowNet` says."""
        out: Tensor = self.net(x, t, s, given)
        return out


def joined(first: Given, second: Given) -> Given:
    """Return two conditions as one.

    The rows of the second come after those of the first.
    """

    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    return Given(
        both(first.vector, second.vector),
        both(first.tokens, second.tokens),
        both(first.known, second.known),
        both(first.channels, second.channels),
        first.level,
    )
