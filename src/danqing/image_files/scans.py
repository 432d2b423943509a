"""Colour images of more than 8 bits, and JPEG XL: read through tifffile and imagecodecs."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.errors import DataError
from danqing.image_files.levels import Deep
from danqing.images import to_pil
from danqing.sizes import too_large


def read_png(content: bytes) -> Deep:
    """Read a 16-bit PNG image at its depth."""
    from imagecodecs import png_decode

    return _deep(png_decode(content), 65535)


def read_tiff(content: bytes, max_pixels: int) -> Image.Image | Deep:
    """Read the first image of a TIFF file at its depth.

    In any layout and compression.
    """
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        page: Any = file.pages[0]
        _check((page.imagewidth, page.imagelength), max_pixels)
        _check((page.tilewidth, page.tilelength), max_pixels)
        samples = page.samplesperpixel
        if page.imagedepth > 1 or samples > 4 or page.photometric not in (0, 1, 2):
            raise DataError(
                f"TIFF files of {samples} channels ({page.photometric.name}) and {page.imagedepth} layers "
                "are not supported: convert the file to grey or RGB."
            )
        values = page.asarray(maxworkers=1)
        if page.planarconfig == 2 and values.ndim == 3 and samples > 1:
            values = np.moveaxis(values, 0, -1)
        if page.photometric == 0 and values.dtype.kind in "ub":
            values = np.iinfo(values.dtype).max - values
        if samples in (2, 4) and tuple(page.extrasamples)[:1] not in ((1,), (2,)):  # not alpha
            values = values[:, :, :-1]
        elif samples in (2, 4) and page.extrasamples[0] == 1:
            values = _straight(values)
        bits = page.bitspersample
    if isinstance(bits, tuple):
        bits = max(bits)
    return _image_or_deep(values, 2**bits - 1 if 8 < bits <= 16 else 65535)


def count_pages(content: bytes) -> int:
    """Count the images of a TIFF file."""
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        return len(file.pages)


def jpeg_xl_size(content: bytes) -> tuple[int, int]:
    """Return the (width, height) that the header of a JPEG XL file states.

    Raises DataError.
    """
    start = 0
    if not content.startswith(b"\xff\x0a"):  # a container: the image is in the box jxlc or jxlp
        place = content.find(b"jxl", 12)
        while place >= 0 and content[place : place + 4] not in (b"jxlc", b"jxlp"):
            place = content.find(b"jxl", place + 1)
        start = place + (4 if content[place : place + 4] == b"jxlc" else 8)
        if place < 0 or content[start : start + 2] != b"\xff\x0a":
            raise DataError("The file is a damaged JPEG XL image: get a complete copy.")
    bits, place = int.from_bytes(content[start + 2 : start + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        value = bits >> place & ((1 << count) - 1)
        place += count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height
    above, below = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * above // below, height


def read_jpeg_xl(content: bytes, max_pixels: int) -> Image.Image | Deep:
    """Read a JPEG XL image at its depth.

    Of an animation, the first frame.
    """
    from imagecodecs import jpegxl_decode

    _check(jpeg_xl_size(content), max_pixels)
    values = jpegxl_decode(content, index=0, numthreads=1)
    if values.ndim == 4:
        values = values[0]
    return _image_or_deep(values, 65535)


def _straight(values: NDArray[Any]) -> NDArray[Any]:
    """Divide colours by the alpha that they were multiplied with."""
    alpha = values[:, :, -1:].astype(np.float64)
    top = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1.0
    colours = values[:, :, :-1] * np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    if values.dtype.kind in "ui":
        colours = np.round(colours).clip(0, top)
    return np.concatenate([colours.astype(values.dtype), values[:, :, -1:]], axis=2)


def _check(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise DataError(too_large(size, max_pixels))


def _image_or_deep(values: NDArray[Any], top: int) -> Image.Image | Deep:
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return to_pil(values if values.ndim == 3 else values[:, :, np.newaxis])
    return _deep(values, top)


def _deep(values: NDArray[Any], top: int) -> Deep:
    if values.ndim == 2:
        values = values[:, :, np.newaxis]
    if values.ndim != 3 or values.shape[2] > 4 or values.dtype.kind not in "uif":
        raise DataError(f"An image of shape {list(values.shape)} and type {values.dtype} cannot be read.")
    if values.dtype == np.uint16:
        return Deep(values, (0.0, float(top)), float(top))
    opaque = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    return Deep(values, None, opaque)
