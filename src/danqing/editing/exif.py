"""EXIF and XMP of an image whose pixels have changed: upright, of its new size, without a preview."""

import re
import struct
from collections.abc import Iterator

_ORIENTATION, _EXIF, _WIDTHS, _HEIGHTS = 0x0112, 0x8769, (0x0100, 0xA002), (0x0101, 0xA003)
_PREVIEW, _PREVIEW_LENGTH = 0x0201, 0x0202
_PREFIX = b"Exif\0\0"
_SHORT, _LONG = 3, 4
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))\s*[2-8]")
_XMP_PREVIEWS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)


def renewed(exif: bytes, size: tuple[int, int] | None = None) -> bytes | None:
    """Reset the orientation of EXIF data and delete the preview.

    All else stays byte for byte.

    exif: with or without the prefix `Exif`.
    size: (width, height) that replaces those in the data; None leaves them.
    Returns the data without the prefix; None if they are damaged.
    """
    block = bytearray(exif.removeprefix(_PREFIX))
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4]))
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        _reset(block, order, first, size)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        link = first + 2 + 12 * count
        (second,) = struct.unpack_from(f"{order}I", block, link)
        if second:
            struct.pack_into(f"{order}I", block, link, 0)
            _erase_preview(block, order, second)
    except struct.error:
        return None
    return bytes(block)


def renewed_xmp(xmp: bytes) -> bytes:
    """Reset the orientation in an XMP packet and delete its previews."""
    return _XMP_PREVIEWS.sub(b"", _XMP_ORIENTATION.sub(rb"\g<1>1", xmp))


def _reset(block: bytearray, order: str, place: int, size: tuple[int, int] | None) -> None:
    for tag, kind, start in _entries(block, order, place):
        if tag == _ORIENTATION:
            _put(block, order, kind, start, 1)
        elif tag == _EXIF and kind == _LONG:
            (inner,) = struct.unpack_from(f"{order}I", block, start)
            if inner != place:
                _reset(block, order, inner, size)
        elif size is not None and tag in (*_WIDTHS, *_HEIGHTS):
            _put(block, order, kind, start, size[tag in _HEIGHTS])


def _put(block: bytearray, order: str, kind: int, start: int, value: int) -> None:
    if kind == _LONG or (kind == _SHORT and value < 2**16):
        struct.pack_into(f"{order}{'H' if kind == _SHORT else 'I'}", block, start, value)


def _entries(block: bytearray, order: str, place: int) -> Iterator[tuple[int, int, int]]:
    """Yield the tag and number type of each entry of a directory, and where its value is."""
    (count,) = struct.unpack_from(f"{order}H", block, place)
    for number in range(count):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", block, place + 2 + 12 * number)
        yield tag, kind, place + 10 + 12 * number


def _erase_preview(block: bytearray, order: str, place: int) -> None:
    found = {
        tag: struct.unpack_from(f"{order}I", block, start)[0]
        for tag, _, start in _entries(block, order, place)
    }
    start, length = found.get(_PREVIEW, 0), found.get(_PREVIEW_LENGTH, 0)
    if not start or start + length > len(block):
        return
    if start + length == len(block):
        del block[start:]
    else:
        block[start : start + length] = bytes(length)
