"""What the parts of an evaluation hand to one another: sets of images, rows of features, networks."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from danqing.precision import Precision


class ImageSet(Protocol):
    """Images of one size, read when they are needed.

    A `Dataset` is one, and so are the images that a model has generated.
    """

    fingerprint: str
    """A sha256 in hexadecimal of everything that the images follow from."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        ...

    @property
    def channels(self) -> int: ...

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label is called; empty where there are none."""
        ...

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the images at `indices`, uint8 `[n, h, w, c]`."""
        ...

    def labels_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return their labels as indices into `label_names`, -1 for none."""
        ...


class Rows(Protocol):
    """Feature vectors float32 `[n, d]`, read slice by slice.

    A tensor is one, and so is a file of features.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class FeatureNetwork(Protocol):
    """A network that images are compared by.

    name: what follows "FD-" in a score. sha256: of its weights, in hexadecimal. resizer: how it brings images
    to its size, in words. normalization: what it makes of a level x in [0, 255] after that, as a formula.
    precision: the number format that it computes in.
    """

    name: str
    sha256: str
    resizer: str
    normalization: str
    dimensions: int
    precision: Precision

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors float32 `[n, dimensions]`.

        images: uint8 `[n, h, w, c]` of 1 to 4 channels.
        """
        ...


@runtime_checkable
class Classifies(Protocol):
    """A feature network that ends in a classifier."""

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of each class, `[n, classes]`.

        features: `[n, dimensions]`.
        """
        ...


@runtime_checkable
class Teaches(Protocol):
    """A feature network whose inner layers can be part of a loss.

    name, sha256: as of a `FeatureNetwork`; a model records them, and its scores are compared with them.
    """

    name: str
    sha256: str

    def perceive(self, images: Tensor) -> list[Tensor]:
        """Return the activations of some layers, with gradients for the images.

        images: `[n, c, h, w]` in [-1, 1]. Each result is `[n, channels, height, width]`.
        """
        ...


@runtime_checkable
class HasStages(Protocol):
    """A feature network whose inner layers can be compared, place by place.

    batch_size: how many images it takes at once.
    """

    batch_size: int

    def stages(self, images: Tensor) -> list[Tensor]:
        """Return the activations of some layers, float32 `[n, channels, height, width]`.

        images: uint8 `[n, h, w, c]`.
        """
        ...
