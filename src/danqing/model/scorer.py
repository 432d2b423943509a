"""A trained classifier as a scorer of images for filters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.errors import ConfigError
from danqing.model.recognizer import Pixels, Recognizer, load_recognizer
from danqing.names import match


class ClassScorer:
    """Scores images by the probability of some classes.

    recognizer: a classifier. classes: those whose images are unwanted. An image has one label or several: the
    probability is the sum of those of the classes, or the highest. Raises ConfigError for an unknown class,
    and ModelError for a model that does not classify.
    """

    def __init__(self, recognizer: Recognizer, classes: Sequence[str]) -> None:
        known = recognizer.classes
        found = [match(name, known) for name in classes]
        if None in found:
            name = classes[found.index(None)]
            raise ConfigError(f"The classifier has no class {name!r}: its classes are {', '.join(known)}.")
        self._recognizer = recognizer
        self._columns = sorted({known.index(name) for name in found if name is not None})

    def __call__(self, images: Pixels) -> NDArray[np.floating[Any]]:
        """Return the probability that each image is unwanted, `[n]`."""
        chosen = self._recognizer.probabilities(images)[:, self._columns].numpy()
        joined: NDArray[np.floating[Any]] = (
            chosen.max(1) if self._recognizer.is_multi_label else chosen.sum(1).clip(0, 1)
        )
        return joined


def load_scorer(source: Path, classes: Sequence[str]) -> ClassScorer:
    """Open a model folder or a run as a scorer.

    Raises ConfigError and ModelError.
    """
    return ClassScorer(load_recognizer(source), classes)
