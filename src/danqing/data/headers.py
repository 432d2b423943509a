"""The file format and the size of an encoded image, read from its first bytes without decoding it."""

import io
import struct
import warnings
from pathlib import Path

from PIL import Image

from danqing.image_files import Deep, Frame
from danqing.images import Pixels

_READ = 2**16
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""JPEG markers in the range of frame headers that begin something else."""

LOSSY = frozenset({"JPEG", "WEBP", "AVIF", "HEIF", "JPEG2000", "JXL"})
"""Formats that usually leave compression artefacts in the pixels."""


def described(
    image: bytes | Path | Frame | Pixels | Image.Image | Deep,
) -> tuple[str, tuple[int, int] | None]:
    """Return the format, as Pillow calls it, and (width, height).

    Returns "" and None if they are unknown.

    Pixels that were never encoded have a size but no format.
    """
    if isinstance(image, Image.Image):
        return image.format or "", image.size
    if isinstance(image, Frame):
        image = image.source
    if isinstance(image, Deep):
        return "", (image.values.shape[1], image.values.shape[0])
    if not isinstance(image, bytes | Path):
        return "", (image.shape[1], image.shape[0])
    try:
        start = image[:_READ] if isinstance(image, bytes) else _start_of(image)
        # Pillow takes 20 times as long, which matters for small files.
        if start.startswith(_PNG):
            return "PNG", struct.unpack_from(">II", start, 16)
        if start.startswith(_JPEG) and (size := _jpeg_size(start)):
            return "JPEG", size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                return opened.format or "", opened.size
    except Exception:  # Pillow raises many kinds of errors; the decoder, which runs next, gives the reason
        return "", None


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_READ)


def _jpeg_size(start: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame header; None if it is beyond the bytes that were read."""
    place = 2
    while place + 9 <= len(start) and start[place] == 0xFF:
        marker = start[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            height, width = struct.unpack_from(">HH", start, place + 5)
            return width, height
        else:
            place += 2 + int.from_bytes(start[place + 2 : place + 4], "big")
    return None
