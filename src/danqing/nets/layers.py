"""Small pieces that the networks of several families share."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition
from danqing.nets.attributes import AttributeEmbedding

RMS_EPSILON = 1e-6
"""Added to the mean square of a vector before RMSNorm divides by its root."""


def halvings(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """Return the sizes from the given one down, each halved.

    They are (height, width), rounded up, and end where the shorter side would fall below `smallest`.
    """
    sizes = [(height, width)]
    while min(half := (math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2))) >= smallest:
        sizes.append(half)
    return sizes


def pad_to_even(x: Tensor) -> Tensor:
    """Repeat the last row and column where a side is odd.

    x: `[n, c, h, w]`. Halving it then rounds up.
    """
    odd_height, odd_width = x.shape[-2] % 2, x.shape[-1] % 2
    return F.pad(x, (0, odd_width, 0, odd_height), mode="replicate") if odd_height or odd_width else x


def channels_last(x: Tensor) -> Tensor:
    """Return images with the channels of each pixel side by side.

    Unlike `contiguous(memory_format=...)`, this works within `torch.func.vmap`.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop `[n, c, h, w]` to its upper left (height, width)."""
    return x[..., : size[0], : size[1]]


def shrunk(x: Tensor, halvings: int) -> Tensor:
    """Average two by two pixels of `[n, c, h, w]`, some number of times.

    Sides are rounded up: where one is odd, the pixels of its last row or column are averaged in pairs.
    """
    for _ in range(halvings):
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    return x


def enlarged(x: Tensor, halvings: int, size: tuple[int, int]) -> Tensor:
    """Repeat the pixels of `[n, c, h, w]`, so that `shrunk` gives it back.

    size: (height, width) of the result.
    """
    return crop(F.interpolate(x, scale_factor=2.0**halvings), size) if halvings else x


class ToMap(nn.Module):
    """A linear layer from vectors to small maps.

    From `[n, inputs]` to `[n, channels, height, width]`, channels-last in memory.
    """

    def __init__(self, inputs: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (*size, channels)
        self.linear = nn.Linear(inputs, math.prod(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(x)
        return h.reshape(-1, *self.shape).permute(0, 3, 1, 2)


class LabelVectors(nn.Embedding):
    """Learned vectors `[n, size]` of labels `[n]`.

    -1, an unknown label, has a vector of its own.
    """

    def __init__(self, labels: int, size: int) -> None:
        super().__init__(labels + 1, size)

    def forward(self, label: Tensor) -> Tensor:
        return super().forward(label % self.num_embeddings)


class JoinCondition(nn.Module):
    """Appends vectors of the label and the attributes to `[n, d]`.

    outputs: the joined width; without labels and attributes, that of the input.
    """

    def __init__(
        self, inputs: int, labels: int, attributes: Sequence[Attribute] = (), *, size: int = 32
    ) -> None:
        super().__init__()
        self.embedding = LabelVectors(labels, size) if labels else None
        self.attributes = AttributeEmbedding(attributes, size) if attributes else None
        self.outputs = inputs + size * (bool(labels) + bool(attributes))

    def forward(self, x: Tensor, condition: Condition | None) -> Tensor:
        parts = [x]
        if self.embedding is not None:
            parts.append(self.embedding(_label(condition)))
        if self.attributes is not None:
            parts.append(self.attributes.of(condition, x.shape[0]))
        return torch.cat(parts, dim=1) if len(parts) > 1 else x


class ProjectionHead(nn.Module):
    """Logits `[n]` of features under a condition.

    wᵀh + b + e(y)ᵀh of features h `[n, d]` and conditions y (Miyato and Koyama 2018, eq. 3). e(y) is the sum
    of the vectors of the label and the attributes; without either, the last term is missing.
    """

    def __init__(self, features: int, labels: int, attributes: Sequence[Attribute] = ()) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = LabelVectors(labels, features) if labels else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=features**-0.5)
        self.attributes = AttributeEmbedding(attributes, features) if attributes else None
        if self.attributes is not None:
            with torch.no_grad():
                self.attributes.last.weight.mul_(features**-0.5)
                self.attributes.last.bias.mul_(features**-0.5)

    def forward(self, features: Tensor, condition: Condition | None) -> Tensor:
        logits: Tensor = self.linear(features).squeeze(1).float()
        if self.embedding is not None:
            vectors = self.embedding(_label(condition))
            logits = logits + (vectors * features).sum(1, dtype=torch.float32)
        if self.attributes is not None:
            vectors = self.attributes.of(condition, len(features))
            logits = logits + (vectors * features).sum(1, dtype=torch.float32)
        return logits


def _label(condition: Condition | None) -> Tensor:
    label = condition.label if condition is not None else None
    assert label is not None, "this network reads labels"
    return label
