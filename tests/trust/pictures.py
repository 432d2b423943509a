"""Small pictures as files, and an authority, for the tests of marks."""

import io

import numpy as np
from PIL import Image

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
FORMATS = ["png", "jpeg", "webp"]


def pixels(mode: str = "RGB", size: int = 64, seed: int = 0) -> np.ndarray:
    """A picture with smooth areas and edges, uint8 `[h, w, c]`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, CHANNELS[mode]), dtype=np.uint8)
    return coarse.repeat(size // 8, 0).repeat(size // 8, 1)


def picture(format: str = "png", mode: str = "RGB", size: int = 64, seed: int = 0) -> bytes:
    """The same as a file; a jpeg has no transparency."""
    if format == "jpeg":
        mode = mode.removesuffix("A")
    buffer = io.BytesIO()
    Image.fromarray(pixels(mode, size, seed).squeeze()).save(buffer, format)
    return buffer.getvalue()
