"""The metadata in an image file: EXIF, XMP, IPTC, texts and Content Credentials, found but not understood."""

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from PIL import Image

from danqing.image_files.formats import recognised
from danqing.image_files.reading import opened
from danqing.image_files.reasons import png_chunks

MAX_TEXT = 4 * 2**20
"""Compressed texts and extended XMP that are larger are cut."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP, _PHOTOSHOP = b"http://ns.adobe.com/xmp/extension/\0", b"Photoshop 3.0\0"
_IPTC_RESOURCE = 0x0404
_XMP_TAG, _IPTC_TAG = 700, 33723
_GIF_XMP, _GIF_XMP_END = b"\x0bXMP DataXMP", b"\x01\xff\xfe\xfd"
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_CREDENTIALS_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP_KEYWORD = "XML:com.adobe.xmp"


class Embedded(NamedTuple):
    """The metadata blocks of a file; empty where it has none.

    exif: the EXIF data, which are in the form of a TIFF file. xmp: packets. iptc: IIM records.
    texts: of a PNG file, by keyword. has_credentials: whether there are Content Credentials (C2PA).
    """

    exif: bytes = b""
    xmp: tuple[bytes, ...] = ()
    iptc: bytes = b""
    texts: Mapping[str, str] = {}
    has_credentials: bool = False


NOTHING = Embedded()


def embedded(content: bytes) -> Embedded:
    """Find the metadata in a file without decoding its pixels.

    Raises DataError for some damaged files whose metadata only a decoder finds.
    """
    kind = recognised(content)
    if kind == "PNG":
        return _of_png(content)
    if kind == "JPEG":
        return _of_jpeg(content)
    if kind == "WEBP":
        return _of_chunks(_webp_chunks(content), {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "credentials"})
    if kind == "JPEG XL":
        return _of_chunks(_boxes(content), {b"Exif": "exif", b"xml ": "xmp", b"jumb": "credentials"})
    if kind == "JPEG2000":
        uuids = ((data[:16], data[16:]) for kind, data in _boxes(content) if kind == b"uuid")
        return _of_chunks(uuids, {_XMP_UUID: "xmp", _CREDENTIALS_UUID: "credentials"})
    if kind == "GIF":
        return _of_gif(content)
    if kind in ("TIFF", "AVIF", "HEIF"):
        return _of_decoder(content, kind)
    return NOTHING


def _of_png(content: bytes) -> Embedded:
    exif, xmp, texts, has_credentials = b"", list[bytes](), dict[str, str](), False
    for kind, start, end in png_chunks(content):
        if kind == b"IDAT":
            continue
        if kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif kind == b"caBX":
            has_credentials = True
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _text(kind, content[start + 8 : end - 4])
            if keyword == _XMP_KEYWORD:
                xmp.append(text)
            else:
                texts[keyword] = text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
    return Embedded(exif, tuple(xmp), b"", texts, has_credentials)


def _text(kind: bytes, data: bytes) -> tuple[str, bytes]:
    """Return the keyword and the text of a PNG chunk (PNG 3, section 11.3.3)."""
    keyword, _, rest = data.partition(b"\0")
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if compressed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_TEXT)
        except zlib.error:
            rest = b""
    return keyword.decode("latin-1"), rest


def _of_jpeg(content: bytes) -> Embedded:
    exif, xmp, extended, resources, has_credentials = b"", list[bytes](), bytearray(), b"", False
    for marker, start, end in _segments(content):
        if marker == 0xE1:
            if content.startswith(_EXIF, start):
                exif = exif or content[start + len(_EXIF) : end]
            elif content.startswith(_XMP, start):
                xmp.append(content[start + len(_XMP) : end])
            elif content.startswith(_EXTENDED_XMP, start) and len(extended) < MAX_TEXT:
                # A digest, the length of the whole and a place in it precede each part (XMP 3, 1.1.3.1).
                extended += content[start + len(_EXTENDED_XMP) + 40 : end]
        elif marker == 0xEB:
            has_credentials = has_credentials or content.startswith(b"JP", start)
        elif marker == 0xED and content.startswith(_PHOTOSHOP, start):
            resources += content[start + len(_PHOTOSHOP) : end]
    packets = (*xmp, bytes(extended)) if extended else tuple(xmp)
    return Embedded(exif, packets, _iptc_in(resources), {}, has_credentials)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment before the pixels of a JPEG file, and where its data are."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:
            return
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        yield marker, place + 4, end
        place = end


def _iptc_in(resources: bytes) -> bytes:
    """Return the IIM records among Photoshop's image resources."""
    place = 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        number = int.from_bytes(resources[place + 4 : place + 6], "big")
        data = place + 6 + (resources[place + 6] + 2) // 2 * 2 + 4
        length = int.from_bytes(resources[data - 4 : data], "big")
        if number == _IPTC_RESOURCE:
            return resources[data : data + length]
        place = data + length + length % 2
    return b""


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(content):
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        yield content[place : place + 4], content[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the outermost boxes of an ISO base media file (ISO 14496-12, section 4.2)."""
    place = 0
    while place + 8 <= len(content):
        length, start = int.from_bytes(content[place : place + 4], "big"), place + 8
        if length == 1:
            length, start = int.from_bytes(content[place + 8 : place + 16], "big"), place + 16
        end = len(content) if length == 0 else place + length
        if end < start:
            return
        data = content[start:end]
        # EXIF follows the offset of its header (ISO 18181-2, section 9.4).
        kind = content[place + 4 : place + 8]
        yield kind, data[4 + int.from_bytes(data[:4], "big") :] if kind == b"Exif" else data
        place = end


def _of_chunks(chunks: Iterator[tuple[bytes, bytes]], names: Mapping[bytes, str]) -> Embedded:
    found: dict[str, bytes] = {}
    for kind, data in chunks:
        if name := names.get(kind):
            found.setdefault(name, data)
    xmp = (found["xmp"],) if "xmp" in found else ()
    return Embedded(found.get("exif", b"").removeprefix(_EXIF), xmp, b"", {}, "credentials" in found)


def _of_gif(content: bytes) -> Embedded:
    """Find the packet of a GIF file, which ends in 258 bytes that count down (XMP 3, section 1.1.2)."""
    start = content.find(_GIF_XMP)
    if start < 0:
        return Embedded(has_credentials=b"c2pa" in content)
    start += len(_GIF_XMP)
    end = content.find(_GIF_XMP_END, start)
    return Embedded(xmp=(content[start : end if end > 0 else None],), has_credentials=b"c2pa" in content)


def _of_decoder(content: bytes, kind: str) -> Embedded:
    """Find the metadata that only a decoder finds."""
    if kind == "TIFF":
        tags = Image.Exif()
        try:
            tags.load(content)
            xmp, iptc = (_as_bytes(tags.get(tag)) for tag in (_XMP_TAG, _IPTC_TAG))
        except Exception:  # Pillow raises many kinds of errors on hostile tags
            return Embedded(has_credentials=b"c2pa" in content)
        return Embedded(content, (xmp,) if xmp else (), iptc, {}, b"c2pa" in content)
    image = opened(content)
    exif, xmp = (_as_bytes(image.info.get(name)) for name in ("exif", "xmp"))
    return Embedded(exif.removeprefix(_EXIF), (xmp,) if xmp else (), b"", {}, b"c2pa" in content)


def _as_bytes(value: object) -> bytes:
    if isinstance(value, tuple) and all(isinstance(one, int) and 0 <= one < 256 for one in value):
        return bytes(value)
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""
