"""The parts of JPEG and PNG files around the pixels, and which of them outlast an edit."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from danqing.image_files.reasons import png_chunks

_XMP, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_PREVIEWS = (1033, 1036)
"""Photoshop's resources that hold a preview."""
_COLOUR_CHUNKS = (b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI")
_REBUILT_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
_HEADER = 33
"""The bytes of a PNG file's signature and IHDR."""

SIGNED = "Content credentials (C2PA) were left out, since they sign the pixels of the input."


class Parts(NamedTuple):
    """The parts of a file that are kept as they are.

    kept: their bytes. notes: sentences about the parts that are not kept.
    """

    kept: bytes
    notes: tuple[str, ...] = ()


def jpeg_parts(content: bytes) -> Parts:
    """Return the parts of a JPEG file that an edit keeps.

    These are the comments, the IPTC data, and the XMP that is in further segments.
    """
    kept, notes = [], []
    for marker, segment in _jpeg_segments(content):
        body = segment[4:]
        if marker == 0xFE or (marker == 0xE1 and body.startswith(_MORE_XMP)):
            kept.append(segment)
        elif marker == 0xED and body.startswith(_PHOTOSHOP):
            resources = photoshop_resources(body.removeprefix(_PHOTOSHOP))
            kept.append(_jpeg_segment(marker, _PHOTOSHOP + resources))
        elif marker == 0xEB and b"c2pa" in body and SIGNED not in notes:
            notes.append(SIGNED)
    return Parts(b"".join(kept), tuple(notes))


def photoshop_resources(content: bytes) -> bytes:
    """Remove previews from Photoshop's image resources, which also hold IPTC data."""
    kept, start = [], 0
    while content[start : start + 4] == b"8BIM" and start + 12 <= len(content):
        (kind,) = struct.unpack_from(">H", content, start + 4)
        place = start + 6 + (content[start + 6] + 2) // 2 * 2  # a name with its length, padded to even
        if place + 4 > len(content):
            break
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 4 + (length + 1) // 2 * 2
        if kind not in _PREVIEWS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def png_parts(content: bytes) -> Parts:
    """Return the chunks of a PNG file that an edit keeps.

    These are colour information, and the chunks that the format itself declares safe to copy when pixels
    change (PNG specification, section 5.4: the fourth letter is small), such as texts and resolution. The
    profile, EXIF and XMP are not among them.
    """
    kept, notes = [], []
    for kind, start, end in png_chunks(content):
        body = content[start + 8 : end - 4]
        is_safe = kind[:1].islower() and kind[3:].islower()
        is_rebuilt = kind == b"eXIf" or body.startswith(_REBUILT_TEXTS)
        if (is_safe or kind in _COLOUR_CHUNKS) and not is_rebuilt:
            kept.append(content[start:end])
        elif kind == b"caBX":
            notes.append(SIGNED)
    return Parts(b"".join(kept), tuple(notes))


def png_body(content: bytes, kind: bytes) -> bytes:
    """Return the contents of the first PNG chunk of a kind.

    The chunk may be after the pixels.
    """
    for found, start, end in png_chunks(content):
        if found == kind:
            return content[start + 8 : end - 4]
    return b""


def colour_chunks(chunks: bytes) -> bytes:
    """Keep only the PNG chunks that the colours depend on.

    chunks: PNG chunks, one after another.
    """
    row = bytes(8) + chunks  # chunks follow a signature of 8 bytes
    return b"".join(row[start:end] for kind, start, end in png_chunks(row) if kind in _COLOUR_CHUNKS)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    """Insert chunks into a PNG file, before its pixels."""
    return png[:_HEADER] + chunks + png[_HEADER:]


def png_xmp(xmp: bytes) -> bytes:
    """Return the chunk with an XMP packet."""
    return png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)


def png_profile(profile: bytes) -> bytes:
    """Return the chunk with a colour profile."""
    return png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))


def png_density(density: tuple[float, float]) -> bytes:
    """Return the chunk with a resolution.

    density: across and down, in dots per inch.
    """
    across, down = (round(value / 0.0254) for value in density)
    return png_chunk(b"pHYs", struct.pack(">IIB", across, down, 1))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the bytes of each segment before the pixels."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker = content[start + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF:  # padding
            start += 1
            continue
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield marker, content[start:end]
        start = end


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
