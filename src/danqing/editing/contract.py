"""What an edit is: a function from the pixels of one image to the pixels of the edited image."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from danqing.randomness import derived_seed
from danqing.trust.declaration import Declaration

Values = NDArray[np.uint8] | NDArray[np.uint16]
"""The pixels of an image, `[h, w, c]`: grey, grey and alpha, RGB, or RGBA; alpha is not premultiplied."""


class ImageToEdit(NamedTuple):
    """One image and what an edit may know of it.

    values: its pixels. seed: of its own, so that it does not depend on the other images of a batch.
    name: of its file, relative to the input and with `/`, such as `cats/tom.png`; "" for an array.
    frame: its place in a film, from 0; 0 where the images are no film.
    """

    values: Values
    seed: int
    name: str = ""
    frame: int = 0


def seed_of(seed: int, name: str, version: int = 0) -> int:
    """Derive the seed of an image from that of its batch.

    Other images of the batch do not change it.
    """
    return derived_seed(seed, f"edit {name}", version)


class Edit(Protocol):
    """An edit with all of its settings.

    It is called for each image in turn, and is the same for all of them.
    """

    @property
    def verb(self) -> str:
        """Return the command that it belongs to, such as "fill"."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides image and seed.

        The values are plain, so that they can be written as JSON. They include the digest of the model's
        weights.
        """
        ...

    @property
    def declaration(self) -> Declaration:
        """Return what the results declare of themselves."""
        ...

    def changes(self, image: ImageToEdit) -> bool:
        """Return whether the edit would change the image.

        If it would not, the result is the input file, byte for byte.
        """
        ...

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        ...

    def apply(self, image: ImageToEdit) -> Values:
        """Edit one image; its type (8 or 16 bits) stays the same.

        Raises DataError for an image that cannot be edited.
        """
        ...


@runtime_checkable
class Keeps(Protocol):
    """An edit that keeps some pixels of an image.

    It may change all other pixels. If it adds borders, `settings["expand"]` has their widths at the left,
    top, right and bottom.
    """

    def kept(self, image: ImageToEdit) -> NDArray[np.bool_]:
        """Return which pixels of the image `[h, w]` it keeps."""
        ...


@runtime_checkable
class KeepsAverages(Protocol):
    """An edit whose results may have to average exactly to the image."""

    @property
    def keeps_averages(self) -> bool:
        """Return whether they do, so that a watermark would break a promise."""
        ...
