"""Writing TIFF files of 8 and 16 bits with the tags of another one."""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from danqing.editing.containers import photoshop_resources
from danqing.editing.contract import Values

Tags = Mapping[int, Any]
"""Values by number; those of the EXIF and GPS directories are tags themselves."""

RAW, DEFLATE = 1, 8
PROFILE, XMP = 34675, 700
_EXIF, _GPS, _INTEROPERABILITY, _PHOTOSHOP = 34665, 34853, 40965, 34377
_SIZE = (0xA002, 0xA003)
_RESOLUTION, _INCH = (282, 283, 296), 2
_ABOUT_PIXELS = frozenset(
    [
        *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284),
        *(288, 289, 290, 291, 292, 293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 334, 336),
        *(338, 339, 340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
        *(559, 37724, _INTEROPERABILITY),
    ]
)
"""Tags that describe how pixels are stored, previews, and Photoshop's layers (37724)."""
_STRIP_BYTES = 2**18


def tags_of(image: Image.Image) -> dict[int, Any]:
    """Return the tags of an image file that an edit keeps.

    They are those of TIFF or of EXIF. The profile and XMP are not among them.

    image: opened from the file.
    """
    exif = image.getexif()
    found: dict[int, Any] = dict(getattr(image, "tag_v2", None) or exif)
    for directory in (_EXIF, _GPS):
        found.pop(directory, None)
        if inner := dict(exif.get_ifd(directory)):
            found[directory] = inner
    if isinstance(resources := found.get(_PHOTOSHOP), bytes):
        found[_PHOTOSHOP] = photoshop_resources(resources)
    kept = {tag: value for tag, value in found.items() if tag not in {*_ABOUT_PIXELS, PROFILE, XMP}}
    return {tag: value for tag, value in _writable(kept).items() if value not in ({}, b"")}


def tags_in(exif: bytes) -> dict[int, Any]:
    """Return the tags in EXIF data."""
    image = Image.new("L", (1, 1))
    image.info["exif"] = exif
    return tags_of(image)


def exif_of(tags: Tags) -> bytes:
    """Return tags as EXIF data for other formats, without the resolution."""
    directory = _directory({tag: value for tag, value in tags.items() if tag not in _RESOLUTION})
    return b"II*\0\x08\0\0\0" + directory.tobytes(8)


def write(
    values: Values,
    tags: Tags,
    *,
    compression: int,
    profile: bytes = b"",
    xmp: bytes = b"",
    density: tuple[float, float] | None = None,
) -> bytes:
    """Write a TIFF file.

    values: uint8 or uint16 `[h, w, c]`.
    tags: from `tags_of`.
    compression: RAW or DEFLATE.
    density: in dots per inch, where the tags have none.
    """
    height, width, channels = values.shape
    bits = values.dtype.itemsize * 8
    directory = _directory(_of_size(tags, (width, height)))
    if density is not None and not set(_RESOLUTION) & set(tags):
        directory[282], directory[283], directory[296] = *density, _INCH
    for tag, blob in ((PROFILE, profile), (XMP, xmp)):
        if blob:
            directory.tagtype[tag] = 7 if tag == PROFILE else 1
            directory[tag] = blob
    rows = max(1, _STRIP_BYTES // (width * channels * values.dtype.itemsize))
    strips = list(_strips(values, rows, compression))
    lengths = [len(strip) for strip in strips]
    directory[256], directory[257] = width, height
    directory[258] = (bits,) * channels
    directory[259] = compression
    directory[262] = 1 if channels < 3 else 2
    directory[274] = 1
    directory[277] = channels
    directory[278] = rows
    directory[284] = 1
    if compression == DEFLATE:
        directory[317] = 2
    if channels in (2, 4):
        directory[338] = (2,)  # alpha that is not premultiplied
    for tag, numbers in ((273, np.cumsum([0, *lengths[:-1]]).tolist()), (279, lengths)):
        directory.tagtype[tag] = 4
        directory[tag] = tuple(numbers)
    file = io.BytesIO()
    directory.save(file)  # shifts the places of the strips behind itself
    for strip in strips:
        file.write(strip)
    return file.getvalue()


def _of_size(tags: Tags, size: tuple[int, int]) -> Tags:
    """Correct the size in EXIF tags."""
    if not isinstance(inner := tags.get(_EXIF), Mapping):
        return tags
    sizes = {tag: value for tag, value in zip(_SIZE, size, strict=True) if tag in inner}
    return {**tags, _EXIF: {**inner, **sizes}}


def _strips(values: Values, rows: int, compression: int) -> Iterator[bytes]:
    for start in range(0, len(values), rows):
        strip = values[start : start + rows]
        if compression == DEFLATE:
            strip = np.concatenate([strip[:, :1], strip[:, 1:] - strip[:, :-1]], axis=1)  # predictor 2
        content = np.ascontiguousarray(strip).astype(strip.dtype.newbyteorder("<"), copy=False).tobytes()
        yield zlib.compress(content) if compression == DEFLATE else content


def _directory(tags: Tags) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        if isinstance(value, Mapping):
            directory.tagtype[tag] = 4
        directory[tag] = value
    return directory


def _writable(tags: Tags) -> dict[int, Any]:
    """Return the tags that can be written: damaged files have values that do not fit their types."""
    kept = {}
    for tag, value in tags.items():
        if isinstance(value, Mapping):
            value = _writable({inner: each for inner, each in value.items() if inner != _INTEROPERABILITY})
        try:
            _directory({tag: value}).tobytes()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, struct.error):
            continue
        kept[tag] = value
    return kept
