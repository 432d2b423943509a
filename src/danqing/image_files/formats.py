"""The formats of image files: their suffixes, how they are recognised, and the extra that reads each."""

import functools
import importlib
import importlib.util
import zlib
from typing import NamedTuple

from PIL import Image


class Format(NamedTuple):
    """A file format.

    name: as Pillow calls it. suffixes: in lower case. extra: what to install to read it.
    """

    name: str
    suffixes: tuple[str, ...]
    extra: str = ""


FORMATS = (
    Format("PNG", (".png", ".apng")),
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    Format("WEBP", (".webp",)),
    Format("GIF", (".gif",)),
    Format("BMP", (".bmp",)),
    Format("DIB", (".dib",)),
    Format("TIFF", (".tif", ".tiff")),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm")),
    Format("AVIF", (".avif",)),
    Format("JPEG2000", (".jp2", ".j2k")),
    Format("TGA", (".tga",)),
    Format("ICO", (".ico",)),
    Format("PCX", (".pcx",)),
    Format("QOI", (".qoi",)),
    Format("SGI", (".sgi",)),
    Format("HEIF", (".heic", ".heif", ".hif"), "heif"),
    Format("JPEG XL", (".jxl",), "scans"),
    Format("DICOM", (".dcm", ".dicom"), "medical"),
    Format("NIfTI", (".nii", ".nii.gz"), "medical"),
)
"""All formats that can be read. Formats that start other programs (EPS, WMF) are left out."""

SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)
"""The suffixes of files that count as images; `.nii.gz` has two dots."""

_MODULES = {
    "heif": ("pillow_heif", "pi_heif"),
    "scans": ("imagecodecs",),
    "medical": ("pydicom",),
    "trust": ("c2pa",),
}


def is_image_name(name: str) -> bool:
    """Report whether a file name has the suffix of an image."""
    return name.lower().endswith(SUFFIXES)


def is_dicom(head: bytes) -> bool:
    """Report whether a file is DICOM, from its first 132 bytes.

    Many such files have no suffix.
    """
    return head[128:132] == b"DICM"


@functools.cache
def is_installed(extra: str) -> bool:
    """Report whether the packages of an extra (`heif`, `medical`, `scans`, `trust`) are installed."""
    return any(importlib.util.find_spec(module) is not None for module in _MODULES[extra])


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """List the formats that Pillow and its plugins can open here."""
    Image.init()
    for module in _MODULES["heif"]:
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register_heif_opener()
            break
    return tuple(format.name for format in FORMATS if format.name in Image.OPEN)


def recognised(content: bytes) -> str:
    """Name the kind of a file from its first bytes.

    "" if it is unknown.

    The names are those of `FORMATS`, and of formats that cannot be read: SVG, PDF, HTML and so on.
    """
    if content[4:8] == b"ftyp":
        brand = content[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        return "HEIF" if brand in _HEIF_BRANDS else "a video"
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return "" if name == "WEBP" and content[8:12] != b"WEBP" else name
    if is_dicom(content[:132]):
        return "DICOM"
    if _is_nifti(content):
        return "NIfTI"
    head = content[:1024].lstrip().lower()
    if b"<svg" in head:
        return "SVG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    return ""


def _is_nifti(content: bytes) -> bool:
    if content.startswith(b"\x1f\x8b"):
        try:
            content = zlib.decompressobj(31).decompress(content[:4096], 400)
        except zlib.error:
            return False
    return content[344:348] == b"n+1\0" or content[4:8] == b"n+2\0"


_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((start, "JPEG XL") for start in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    *((start, "JPEG2000") for start in (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"version https://git-lfs", "Git LFS"),
    (b"PK\x03\x04", "a zip archive"),
)
