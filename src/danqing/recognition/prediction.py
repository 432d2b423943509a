"""What a model recognizes in one image, as plain values; without PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.sizes import Fit, placed_back

LEAST_PROBABILITY, LEAST_SCORE = 0.5, 0.3
"""Of each of several labels, and of an object, where no other threshold is given."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label of an image and its probability in [0, 1]."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object in an image.

    name: its class. score: how certain it is, in [0, 1]. box: left, top, right, bottom in pixels of the image
    as it was given.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"label": self.name, "score": round(self.score, 6), "box": [round(s, 2) for s in self.box]}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model recognizes in one image.

    name: of the file, relative to the input; its place, for images in memory.
    labels: those requested, the most probable first.
    objects: those that were found, the most certain first; None for a model that finds none.
    mask: the class of each pixel, uint8 `[h, w]` of the size of the image; None if it is not kept.
    shares: of the pixels that have each class, by its name; None for a model that does not segment.
    """

    name: str
    labels: tuple[Label, ...] = ()
    objects: tuple[FoundObject, ...] | None = None
    mask: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    shares: Mapping[str, float] | None = None

    @classmethod
    def of_mask(
        cls, name: str, mask: NDArray[np.uint8], classes: Sequence[str], *, keep: bool = True
    ) -> "Prediction":
        """Return what a mask says of an image. keep: whether to keep the mask itself."""
        counts = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
        shares = dict(zip(classes, counts.tolist(), strict=True))
        return cls(name, mask=mask if keep else None, shares=shares)

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        if self.objects is not None:
            return {"name": self.name, "objects": [each.plain() for each in self.objects]}
        if self.shares is not None:
            return {
                "name": self.name,
                "shares": {name: round(share, 6) for name, share in self.shares.items()},
            }
        labels = [{"label": each.name, "probability": round(each.probability, 6)} for each in self.labels]
        return {"name": self.name, "labels": labels}


def labels_of(
    classes: Sequence[str],
    probabilities: NDArray[Any],
    top: int,
    threshold: float | None,
    *,
    is_multi_label: bool,
) -> tuple[Label, ...]:
    """Return the requested labels of one image, the most probable first.

    probabilities: of all classes, `[k]`. top: how many of them.
    threshold: where an image may have several labels, those that are at least as probable instead; None is
        `LEAST_PROBABILITY`.
    """
    order = np.argsort(-probabilities, kind="stable").tolist()
    if is_multi_label:
        least = LEAST_PROBABILITY if threshold is None else threshold
        order = [place for place in order if probabilities[place] >= least]
    else:
        order = order[:top]
    return tuple(Label(classes[place], float(probabilities[place])) for place in order)


def objects_of(
    classes: Sequence[str],
    boxes: NDArray[Any],
    places: NDArray[Any],
    scores: NDArray[Any],
    *,
    natural: tuple[int, int],
    size: tuple[int, int],
    fit: Fit,
) -> tuple[FoundObject, ...]:
    """Return the objects in one image, with boxes in pixels of the image as it was given.

    boxes: in pixels of the resized image, `[m, 4]`. places: of the class of each, `[m]`. scores: `[m]`.
    natural, size, fit: how the image was resized, as of `danqing.sizes.placed_back`.
    """
    sides = placed_back(boxes, natural, size, fit).tolist()
    rows = zip(places.tolist(), scores.tolist(), sides, strict=True)
    return tuple(FoundObject(classes[place], score, tuple(box)) for place, score, box in rows)
