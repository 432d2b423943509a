"""Metadata of image files: orientation and colour profile are applied, everything else is ignored."""

import functools
import io
import struct
import zlib
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageCms

from danqing.image_files.reasons import png_chunks

MAX_PROFILE = 4 * 2**20
"""Larger colour profiles are ignored; those for printing presses have up to 3 MiB."""
_ORIENTATION = 0x0112
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def without(content: bytes) -> bytes | None:
    """Remove unneeded metadata from a PNG or JPEG file.

    The orientation stays.

    None if there is nothing to remove, and for other formats.
    """
    if content.startswith(b"\x89PNG"):
        kept = [content[:8]]
        kept += [content[start:end] for kind, start, end in png_chunks(content)
                 if kind in _KEPT or (kind == b"eXIf" and _is_intact(content[start:end]))]  # fmt: skip
    elif content.startswith(b"\xff\xd8\xff"):
        kept = _jpeg_parts(content)
    else:
        return None
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None


def orientation(image: Image.Image, content: bytes) -> int:
    """Return the EXIF orientation of an opened file, 1 to 8.

    1 if it has no readable one.
    """
    if (
        image.format == "PNG" and b"eXIf" in content
    ):  # it may come after the pixels, which need not be decoded
        for kind, start, end in png_chunks(content):
            if kind == b"eXIf":
                value = _orientation_in(content[start + 8 : end - 4])
                return value if value in _TURNS else 1
    raw = image.info.get("exif")
    keys = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
    if not keys & image.info.keys() and image.format != "TIFF":
        return 1
    try:
        found: Any = image.getexif().get(_ORIENTATION)
    except Exception:  # one malformed tag must not hide the others
        found = _orientation_in(raw) if isinstance(raw, bytes) else None
    if isinstance(found, tuple) and found:
        found = found[0]
    return found if isinstance(found, int) and found in _TURNS else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Rotate and mirror an image as its EXIF orientation says."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def upright_values(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """Rotate and mirror an array `[h, w, c]` as an EXIF orientation says."""
    if turn in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    return values


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an 8-bit image with a colour profile to sRGB.

    Images without a profile, with an sRGB profile, or with an unusable one stay unchanged.
    """
    if image.mode == "LAB":
        transform = _transform(b"", "LAB")
        return image if transform is None else _applied(image, transform)
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= MAX_PROFILE:
        return image
    space = profile[16:20]
    if space == b"GRAY" and image.mode in ("L", "LA") and "transparency" not in image.info:
        transform = _transform(profile, "L")
        if transform is None:
            return image
        grey = _applied(image.getchannel(0), transform).getchannel(0)
        return Image.merge("LA", (grey, image.getchannel(1))) if image.mode == "LA" else grey
    if space == b"CMYK" and image.mode == "CMYK":
        transform = _transform(profile, "CMYK")
    elif space == b"RGB " and image.mode in ("RGB", "RGBA", "P", "PA", "RGBX"):
        transform = _transform(profile, "RGB")
        if transform is not None and image.mode != "RGB":
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        if transform is not None and image.has_transparency_data:
            image = image.convert("RGBA")
            colours = _applied(image.convert("RGB"), transform)
            colours.putalpha(image.getchannel(3))
            return colours
    else:
        return image
    return image if transform is None else _applied(image, transform)


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = transform.apply(image)
    result.info = {}
    return result


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from a profile to sRGB in 8 bits; None for sRGB and for unusable profiles."""
    try:
        if not profile:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" in ImageCms.getProfileDescription(source).lower():
                return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except Exception:  # a useless profile must not make the image unreadable
        return None


def _is_intact(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _jpeg_parts(content: bytes) -> list[bytes]:
    """Return a JPEG file without comments, profiles and previews; keep EXIF and Adobe's colour transform."""
    kept, start = [content[:2]], 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker, length = content[start + 1], int.from_bytes(content[start + 2 : start + 4], "big")
        if marker == 0xDA:  # the pixels follow
            break
        end = start + 2 + length
        dropped = marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)
        if not dropped or content[start + 4 : start + 8] == b"Exif":
            kept.append(content[start:end])
        start = end
    return [*kept, content[start:]]


def _orientation_in(exif: bytes) -> int | None:
    """Return the orientation in the first directory of EXIF data; skip malformed tags."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, place)
        for number in range(count):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", block, place + 2 + 12 * number)
            if tag == _ORIENTATION:
                code = "H" if kind == 3 else "I"
                return int(struct.unpack_from(f"{order}{code}", block, place + 10 + 12 * number)[0])
    except struct.error:
        pass
    return None
