"""Pictures compared by their pixels alone: no weights, and no idea of what is in them."""

import hashlib

import torch
from torch import Tensor

from danqing.evaluation.resize import images_at_once, in_words, prepared
from danqing.precision import Precision

NAME = "pixels"
SIDE = 16


class Pixels:
    """The 768 colour values in [0, 1] of an image at 16 pixels a side."""

    name = NAME
    sha256 = hashlib.sha256(f"{NAME} {SIDE}x{SIDE} RGB".encode()).hexdigest()
    resizer = in_words((SIDE, SIDE))
    normalization = "x / 255"
    dimensions = 3 * SIDE * SIDE
    precision: Precision = "float32"

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors float32 `[n, 768]`.

        images: uint8 `[n, h, w, c]`.
        """
        _, height, width, _ = images.shape
        found = images.new_empty((len(images), self.dimensions), dtype=torch.float32)
        size = images_at_once((width, height))
        for start in range(0, len(images), size):
            part = prepared(images[start : start + size], (SIDE, SIDE))
            found[start : start + size] = part.reshape(len(part), -1) / 255
        return found
