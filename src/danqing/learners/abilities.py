"""What a learner can do with images: each ability is a class that it implements or does not.

Images are `[n, c, h, w]`, float32 in [-1, 1], of the size and channels in the learner's configuration unless
a method says that it takes others. All methods are differentiable and draw nothing at random; the caller
chooses eval mode and no-grad.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Embeds(Protocol):
    """A learner that turns images into vectors: every learner of recognition does."""

    @property
    def embedding_size(self) -> int:
        """Return the length of a vector."""
        ...

    def embed(self, images: Tensor) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32, not normalized."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """A learner that gives each image one of its labels, or several.

    classes: the names of the labels, in the order of the logits.
    is_multi_label: whether an image may have several labels; a logit is then of a sigmoid, otherwise all
        logits of an image are of one softmax.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def is_multi_label(self) -> bool: ...

    def logits(self, images: Tensor) -> Tensor:
        """Compute the logits of each class, `[n, k]`."""
        ...


@runtime_checkable
class Segments(Protocol):
    """A learner that gives each pixel a class. Its convolutions take images of any size.

    classes: the names of the classes.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    def mask_logits(self, images: Tensor) -> Tensor:
        """Compute the logits of each class at each pixel, `[n, k, h, w]`."""
        ...


class Detection(NamedTuple):
    """The objects found in one image, most confident first.

    boxes: `[m, 4]` float32: left, top, right, bottom in pixels. classes: `[m]` int64. scores: `[m]` float32
    in [0, 1].
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor


@runtime_checkable
class Detects(Protocol):
    """A learner that finds objects and their boxes.

    classes: the names of the classes.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    def detect(self, images: Tensor, *, threshold: float = 0.05) -> list[Detection]:
        """Find the objects in each image, after non-maximum suppression.

        threshold: the lowest score that is reported.
        """
        ...
