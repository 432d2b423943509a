"""Attributes of images as vectors: numbers, categories and vectors, any of which may be missing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition

HIDDEN = 128
"""Width of the vectors that are summed over attributes."""
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
"""Of the waves that describe a number, in radians per standard deviation of the data."""
FARTHEST = 6.0
"""Standard deviations from the mean beyond which numbers look alike to a model."""


class AttributeEmbedding(nn.Module):
    """Turns the attributes of images into one vector per image.

    Each attribute gives a vector, a missing one a learned vector of its own. A layer on their sum lets them
    interact. The result of one image depends on that image alone.

    attributes: as in `FamilyConfig.attributes`, at least one.
    width: of the result.
    """

    def __init__(self, attributes: Sequence[Attribute], width: int) -> None:
        super().__init__()
        self.columns = [attribute.width for attribute in attributes]
        self.parts = nn.ModuleList(
            _Category(len(one.categories), HIDDEN) if one.kind == "category" else _Number(one, HIDDEN)
            for one in attributes
        )
        self.last = nn.Linear(HIDDEN, width)

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """Return `[n, width]`.

        values: float32 `[n, sum of widths]`, as `Condition.attributes` holds them. known: bool of the same
        shape, whether each value is given.
        """
        columns = zip(values.split(self.columns, 1), known.split(self.columns, 1), strict=True)
        vectors = [part(*column) for part, column in zip(self.parts, columns, strict=True)]
        out: Tensor = self.last(F.silu(torch.stack(vectors).sum(0) * len(vectors) ** -0.5))
        return out

    def of(self, condition: Condition | None, count: int) -> Tensor:
        """Return the vectors of a condition, `[count, width]`.

        Attributes that it does not have are missing.
        """
        values = condition.attributes if condition is not None else None
        known = condition.attribute_mask if condition is not None else None
        if values is None or known is None:
            values = torch.zeros(count, sum(self.columns), device=self.last.weight.device)
            known = values.bool()
        return self.forward(values, known)


class _Category(nn.Module):
    """The learned vector of a category `[n, 1]`; the last one stands for a missing value."""

    def __init__(self, categories: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(categories + 1, width)

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        missing = self.vectors.num_embeddings - 1
        vectors: Tensor = self.vectors(torch.where(known, values.long(), missing).squeeze(1))
        return vectors


class _Number(nn.Module):
    """The vector of one or more numbers `[n, k]`, from their standardised values and waves of these."""

    mean: Tensor
    deviation: Tensor
    frequencies: Tensor

    def __init__(self, attribute: Attribute, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(attribute.width * (2 + 2 * len(FREQUENCIES)), width)
        mean = attribute.mean or (0.0,) * attribute.width
        deviation = attribute.deviation or (1.0,) * attribute.width
        with torch.device("cpu"):  # on any device of the weights: no file holds these
            scale = [one if one > 0 else 1.0 for one in deviation]
            self.register_buffer("mean", torch.tensor(mean), persistent=False)
            self.register_buffer("deviation", torch.tensor(scale), persistent=False)
            self.register_buffer("frequencies", torch.tensor(FREQUENCIES), persistent=False)

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        standard = ((values.float() - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        angles = standard[..., None] * self.frequencies  # [n, k, frequencies]
        waves = torch.cat([angles.sin(), angles.cos()], 2)
        told = torch.cat([torch.ones_like(standard)[..., None], standard[..., None], waves], 2)
        vectors: Tensor = self.linear((told * known[..., None]).flatten(1))
        return vectors
