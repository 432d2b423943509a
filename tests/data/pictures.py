"""Small picture files for the tests of this room."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 8, height: int = 8, channels: int = 3) -> np.ndarray:
    """A picture of its own for every number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(number: int, **shape: int) -> bytes:
    """`picture` as the bytes of a png file."""
    buffer = io.BytesIO()
    pixels = picture(number, **shape)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, names: list[str], **shape: int) -> Path:
    """Png files at some relative paths, the first `picture(0)`, the next `picture(1)`."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, **shape))
    return folder
