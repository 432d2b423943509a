"""Batches: the images of a training step, and their conditions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from danqing.data.targets import Targets


@dataclass(frozen=True, slots=True)
class Condition:
    """What the images should show.

    Each field is batched along its first axis, or None if it is not given.

    label: `[n]` int64 class indices. text: n captions. negative_text: n texts to lead away from, "" for the
    empty prompt. image: `[n, c, h, w]` in [-1, 1]. mask: `[n, 1, h, w]` in {0, 1}, 1 where the model may
    change the image. attributes: `[n, sum of widths]` float32, the columns that `Dataset.attributes`
    describes, 0 where a value is missing. attribute_mask: the same shape, boolean, whether a value is known.
    """

    label: Tensor | None = None
    text: tuple[str, ...] | None = None
    negative_text: tuple[str, ...] | None = None
    image: Tensor | None = None
    mask: Tensor | None = None
    attributes: Tensor | None = None
    attribute_mask: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Return the same condition with its tensors on `device`."""
        return self._map(lambda value: value.to(device) if isinstance(value, Tensor) else value)

    def __getitem__(self, rows: slice | Sequence[int]) -> Self:
        """Return the condition of a selection of the images, in any order."""
        if isinstance(rows, slice):
            return self._map(lambda value: value[rows])
        chosen = list(rows)
        return self._map(
            lambda value: value[chosen] if isinstance(value, Tensor) else tuple(value[row] for row in chosen)
        )

    def _map(self, function: Any) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(v) for name, v in values.items() if v is not None})


@dataclass(frozen=True, slots=True)
class Batch:
    """Images `[n, c, h, w]`, float32 in [-1, 1], channels-last in memory, with their condition.

    codes: what a tokenizer made of the images, codes int64 `[n, rows, columns, depth]` or latents float32
    `[n, channels, rows, columns]`. The images are then empty, `[n, 0, 0, 0]`.
    noise: standard normal values of the shape of the images, if noise has chosen the images.
    targets: what a learner predicts of the images besides `condition.label`, if the data has it.
    trajectories: as many of a teacher's, with their own conditions; the images are their points, from noise
    to image, `[n, points, c, h, w]`.
    """

    images: Tensor
    condition: Condition = field(default_factory=Condition)
    codes: Tensor | None = None
    noise: Tensor | None = None
    targets: Targets | None = None
    trajectories: "Batch | None" = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, rows: slice) -> "Batch":
        """Return a selection of the batch."""
        codes = None if self.codes is None else self.codes[rows]
        noise = None if self.noise is None else self.noise[rows]
        targets = None if self.targets is None else self.targets.mapped(lambda value: value[rows])
        trajectories = None if self.trajectories is None else self.trajectories[rows]
        return Batch(self.images[rows], self.condition[rows], codes, noise, targets, trajectories)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to the images of the batch.

        It is applied to their source images and the noise too.
        """
        source, noise = self.condition.image, self.noise
        condition = self.condition if source is None else replace(self.condition, image=function(source))
        noise = None if noise is None else function(noise)
        return replace(self, images=function(self.images), condition=condition, noise=noise)

    def to(self, device: torch.device | str) -> "Batch":
        codes = None if self.codes is None else self.codes.to(device, non_blocking=True)
        noise = None if self.noise is None else self.noise.to(device, non_blocking=True)
        targets = None if self.targets is None else self.targets.mapped(lambda value: value.to(device))
        images = self.images.to(device, non_blocking=True)
        trajectories = None if self.trajectories is None else self.trajectories.to(device)
        return Batch(images, self.condition.to(device), codes, noise, targets, trajectories)
