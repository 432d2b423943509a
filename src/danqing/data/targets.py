"""Targets: what a learner predicts of images, besides one label per image."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor

IGNORED = 255
"""The class of pixels in a mask that count neither in training nor in scores."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a batch.

    Each field is batched along its first axis, or None if the data has no such targets.
    label_set: `[n, k]` float32 in {0, 1}, where an image may have several labels.
    boxes: `[n, most, 4]` float32: left, top, right, bottom in pixels of the image.
    box_labels: `[n, most]` int64, the class of each box, -1 where an image has fewer boxes.
    mask: `[n, h, w]` uint8, the class of each pixel; `IGNORED` where it is not known.
    """

    label_set: Tensor | None = None
    boxes: Tensor | None = None
    box_labels: Tensor | None = None
    mask: Tensor | None = None

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to each tensor."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(v) for name, v in values.items() if v is not None})


class TargetClasses(BaseModel):
    """The classes of each kind of target.

    Their names are in the order of their numbers. A kind that the data does not have has no classes.

    mask_shares: the share of each class among the pixels whose class is known.
    """

    model_config = ConfigDict(frozen=True)

    label_set: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    mask_shares: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.label_set or self.boxes or self.mask)
