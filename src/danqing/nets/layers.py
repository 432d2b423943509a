"""Small pieces that the networks of several families share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RMS_EPSILON = 1e-6
"""Added to the mean square of a vector before RMSNorm divides by its root."""


def halvings(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """Sizes (height, width) from the given one down, each half of the one before, rounded up.

    They end where the shorter side would fall below `smallest`.
    """
    sizes = [(height, width)]
    while min(half := (math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2))) >= smallest:
        sizes.append(half)
    return sizes


def pad_to_even(x: Tensor) -> Tensor:
    """`[n, c, h, w]` with its last row and column repeated where a side is odd, so that halving rounds up."""
    odd_height, odd_width = x.shape[-2] % 2, x.shape[-1] % 2
    return F.pad(x, (0, odd_width, 0, odd_height), mode="replicate") if odd_height or odd_width else x


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left `size` (height, width) of `[n, c, h, w]`."""
    return x[..., : size[0], : size[1]]


class ToMap(nn.Module):
    """A vector `[n, inputs]` to a small picture `[n, channels, height, width]`, channels-last in memory."""

    def __init__(self, inputs: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (*size, channels)
        self.linear = nn.Linear(inputs, math.prod(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(x)
        return h.reshape(-1, *self.shape).permute(0, 3, 1, 2)


class LabelVectors(nn.Embedding):
    """Labels `[n]` to learned vectors `[n, size]`; -1, a label that is not known, has a vector of its own."""

    def __init__(self, labels: int, size: int) -> None:
        super().__init__(labels + 1, size)

    def forward(self, label: Tensor) -> Tensor:
        return super().forward(label % self.num_embeddings)


class JoinLabel(nn.Module):
    """Appends a learned vector per label to `[n, d]`, if there are labels; `outputs` is the joined width."""

    def __init__(self, inputs: int, labels: int, size: int = 32) -> None:
        super().__init__()
        self.embedding = LabelVectors(labels, size) if labels else None
        self.outputs = inputs + (size if labels else 0)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        return x if self.embedding is None else torch.cat([x, self.embedding(label)], dim=1)


class ProjectionHead(nn.Module):
    """Features h `[n, d]` and labels y `[n]` to logits `[n]`: wᵀh + b + e(y)ᵀh.

    The projection of Miyato and Koyama (2018, eq. 3); without labels its last term is missing.
    """

    def __init__(self, features: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = LabelVectors(labels, features) if labels else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, features: Tensor, label: Tensor | None) -> Tensor:
        logits: Tensor = self.linear(features).squeeze(1).float()
        if self.embedding is not None:
            logits = logits + (self.embedding(label) * features).sum(1, dtype=torch.float32)
        return logits
