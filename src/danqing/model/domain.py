"""The domain of a model: simple statistics of its training images, to notice images that are unlike them.

An image is divided into 3 by 3 cells, each described by its mean colours and by its detail at two scales. An
image is outside of the domain if its description is far from that of every group of training images. This
needs no network and no images: a model folder holds the means of 64 groups.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.randomness import generator
from danqing.requested_attributes import OutsideTrainingWarning

MOST = 1_000
"""Training images that a domain is fitted to, at most."""
_LEAST = 64
_GROUPS, _PER_GROUP, _ROUNDS = 64, 4, 15
_CELLS = 3
_FLOOR = 0.01
"""Is added to the energy of a cell before its logarithm: less than this is not seen."""
_VISIBLE = 0.5
"""A cell counts if at least this share of it is visible."""
_QUANTILE = 0.99
"""The share of other training images whose distance is below the threshold."""


@dataclass(frozen=True, eq=False)
class Domain:
    """What is known of the training images.

    centre, scale: `[d]`, of `statistics`, with d = 9 * (channels + 2). groups: `[k, d]`, on that scale.
    threshold: the largest distance of an image that is like them.
    """

    centre: Tensor
    scale: Tensor
    groups: Tensor
    threshold: float

    @classmethod
    def fit(cls, batches: Iterable[Tensor]) -> "Domain | None":
        """Fit a domain to batches of images.

        batches: of images `[n, c, h, w]` in [-1, 1].
        Returns None where there are too few. One half of them is compared with the other to find the
        threshold.
        """
        values = torch.cat([statistics(images)[0].flatten(1) for images in batches])
        if len(values) < _LEAST:
            return None
        half = cls(*_grouped(values[::2]), threshold=torch.inf)
        others = values[1::2]
        distances = half._distances(others, torch.ones_like(others, dtype=torch.bool))
        threshold = float(torch.quantile(distances, _QUANTILE))
        return cls(*_grouped(values), threshold=threshold)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Domain | None":
        """Return the domain among the facts of a model.

        None where they do not describe one.
        """
        try:
            told = facts["domain"]
            centre, scale = (_numbers(told[name]) for name in ("centre", "scale"))
            groups = torch.stack([_numbers(row) for row in told["groups"]])
            threshold = float(told["threshold"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            return None
        fits = centre.ndim == 1 and scale.shape == centre.shape and groups.shape[1:] == centre.shape
        return cls(centre, scale, groups, threshold) if fits and len(groups) and (scale > 0).all() else None

    def facts(self) -> dict[str, Any]:
        """Return the domain as plain values: texts of numbers with four digits."""
        return {
            "centre": _text(self.centre),
            "scale": _text(self.scale),
            "groups": [_text(row) for row in self.groups],
            "threshold": float(f"{self.threshold:.4g}"),
        }

    def distances(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return how far images are from the nearest group, `[n]` float64.

        It is 0 where all is hidden.
        images: `[n, c, h, w]` in [-1, 1], with the channels of the training images. hidden: `[n, 1, h, w]`, 1
        where a pixel does not count.
        """
        values, known = statistics(images, hidden)
        return self._distances(values.flatten(1), known[:, :, None].expand_as(values).flatten(1))

    def are_outside(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return which images are unlike the training images, `[n]` bool.

        None is, if the images have other channels than those.
        """
        if _CELLS**2 * (images.shape[1] + 2) != len(self.centre):
            return torch.zeros(len(images), dtype=torch.bool)
        return self.distances(images, hidden) > self.threshold

    def _distances(self, values: Tensor, known: Tensor) -> Tensor:
        scaled = (values - self.centre) / self.scale
        apart = (scaled[:, None] - self.groups).square() * known[:, None]
        return (apart.sum(2) / known.sum(1, keepdim=True).clamp_min(1)).amin(1).sqrt()


def statistics(images: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Describe the cells of images, and say which are visible.

    Returns `[n, 9, c + 2]` float64 and `[n, 9]` bool.

    images, hidden: as of `Domain.distances`.
    """
    images = images.detach().cpu().float()
    seen = torch.ones_like(images[:, :1]) if hidden is None else 1 - hidden.detach().cpu().float()
    means, shares = _pooled(images, seen)
    details = []
    for scale in (1, 2):
        small = F.avg_pool2d(images, scale, ceil_mode=True)
        visible = -F.max_pool2d(-seen, scale, ceil_mode=True)  # only where all pixels are
        energy, both = torch.zeros_like(visible), visible
        for axis in (2, 3):
            energy = energy + (_next(small, axis) - small).square().mean(1, keepdim=True)
            both = both * _next(visible, axis)
        details.append((_pooled(energy, both)[0] + _FLOOR).log())
    values = torch.cat([means, *details], 1).flatten(2).transpose(1, 2).double()
    return values, shares[:, 0].flatten(1) >= _VISIBLE


def warn_outside(
    domain: Domain | None, images: Tensor, hidden: Tensor | None = None, *, are_parts: bool = False
) -> None:
    """Warn of images that are unlike the training images of a model.

    are_parts: whether they are parts of one image, of which most must be.
    """
    if domain is None or not len(images):
        return
    count = int(domain.are_outside(images, hidden).sum())
    if 2 * count > len(images) if are_parts else count == len(images) == 1:
        said = "The image is"
    elif count and not are_parts:
        said = f"{count} of {len(images)} images are"
    else:
        return
    warnings.warn(
        f"{said} unlike the training images in colours or detail: the result may be poor.",
        OutsideTrainingWarning,
        stacklevel=3,
    )


def _grouped(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centre and scale of rows `[n, d]`, and the means of their groups by k-means."""
    centre, scale = values.mean(0), values.std(0).clamp_min(0.01)
    scaled, count = (values - centre) / scale, min(_GROUPS, len(values) // _PER_GROUP)
    groups = scaled[torch.randperm(len(scaled), generator=generator(0, "domain"))[:count]]
    for _ in range(_ROUNDS):
        member = F.one_hot(torch.cdist(scaled, groups).argmin(1), count).to(scaled.dtype)
        sizes = member.sum(0)[:, None]
        groups = torch.where(sizes > 0, member.T @ scaled / sizes.clamp_min(1), groups)
    return centre, scale, groups


def _pooled(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of each cell, and the share of the weights in it."""
    shares = F.adaptive_avg_pool2d(weights, _CELLS)
    return F.adaptive_avg_pool2d(values * weights, _CELLS) / shares.clamp_min(1e-9), shares


def _next(values: Tensor, axis: int) -> Tensor:
    """Each pixel's neighbour along an axis; the last one has itself."""
    length = values.shape[axis]
    return torch.cat([values.narrow(axis, 1, length - 1), values.narrow(axis, length - 1, 1)], axis)


def _text(numbers: Tensor) -> str:
    return " ".join(f"{number:.4g}" for number in numbers.tolist())


def _numbers(text: str) -> Tensor:
    found = torch.tensor([float(number) for number in text.split()], dtype=torch.float64)
    if not found.isfinite().all():
        raise ValueError("a domain has finite numbers alone")
    return found
