"""Faces in images, found by a cascade of local binary patterns from scikit-image."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from danqing.data.originals import Original
from danqing.errors import DataError
from danqing.images import Pixels, conform

SIDES = (48, 160)
"""The range of the longer side at which images are searched: smaller and larger ones are resized."""
_NEIGHBOURS = 4
"""How many overlapping windows must agree; fewer find more faces and more that are none."""
_WINDOW = 24
_LONGEST_RATIO = 4


class Faces(NamedTuple):
    """How many of some images show a face.

    images: those that were searched, which excludes unreadable and very small ones. showing: those with a
    face. names: of the first of these.
    """

    images: int
    showing: int
    names: tuple[str, ...]


def is_installed() -> bool:
    """Return whether the package of the extra `faces` is installed."""
    return find_spec("skimage") is not None


class FaceDetector:
    """Finds faces that look at the camera.

    (Cascade of multi-block local binary patterns: Liao et al. 2007; Viola and Jones 2001. The weights are
    OpenCV's, in scikit-image.) Raises DataError if scikit-image is not installed.
    """

    def __init__(self) -> None:
        if not is_installed():
            raise DataError("Finding faces needs scikit-image: pip install 'danqing[faces]'.")
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade

        self._cascade: Any = Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]

    def count(self, pixels: Pixels) -> int:
        """Count the faces in an image, uint8 `[h, w, c]`."""
        if not is_searchable(pixels):
            return 0
        grey = _searched(pixels)
        found = self._cascade.detect_multi_scale(
            img=grey,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(_WINDOW, _WINDOW),
            max_size=(min(grey.shape),) * 2,
            min_neighbor_number=_NEIGHBOURS,
            intersection_score_threshold=0.5,
        )
        return len(found)


def find_faces(images: Iterable[Original], named: int = 20) -> Faces:
    """Find out how many images show a face.

    named: how many of those that show one are named.
    """
    detector, count, showing = FaceDetector(), 0, list[str]()
    for image in images:
        if image.pixels is not None and is_searchable(image.pixels):
            count += 1
            if detector.count(image.pixels):
                showing.append(image.name)
    return Faces(count, len(showing), tuple(showing[:named]))


def is_searchable(pixels: Pixels) -> bool:
    """Return whether faces can be found in an image of this shape."""
    height, width = pixels.shape[:2]
    return bool(_WINDOW <= max(height, width) <= _LONGEST_RATIO * min(height, width))


def _searched(pixels: Pixels) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the levels of an image at a size that is searched, with borders around it.

    The windows of faces that fill the image reach beyond it.
    """
    grey = Image.fromarray(conform(pixels, channels=1)[:, :, 0])
    scale = min(max(*grey.size, SIDES[0]), SIDES[1]) / max(grey.size)
    if scale != 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BICUBIC)
    return np.pad(np.asarray(grey), max(grey.size) // 8, mode="edge")
