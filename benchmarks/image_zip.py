"""Zip files of images that a benchmark makes, which are read as any user's data."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write(path: Path, images: Iterable[tuple[str, NDArray[np.uint8]]]) -> Path:
    """Write images by their names in a zip file, unless it exists; returns its path.

    images: pairs of a name such as "train/cat/1.png" and pixels uint8 `[h, w]` or `[h, w, 3]`.
    """
    if path.exists():
        return path
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for name, pixels in images:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", compress_level=1)
            archive.writestr(name, buffer.getvalue())
    part.rename(path)
    return path
