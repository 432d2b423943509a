"""What an image file is besides its pixels, and files with new pixels that keep it."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from danqing import image_files, images
from danqing.editing import containers, exif, tiff, webp
from danqing.editing.contract import Values
from danqing.errors import ConfigError, DataError
from danqing.image_files import Deep, reasons, scans
from danqing.image_files.formats import FORMATS, is_installed, recognised
from danqing.images import to_pil
from danqing.trust import labels

WRITTEN = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "TGA")
"""The formats that are written, as Pillow calls them; files in others become PNG."""
_DEEP = ("PNG", "TIFF", "PPM")
_DENSEST = 1e6
"""Dots per inch; more are a mistake, and do not fit the fields of other formats."""
_QUALITY = 90
"""Of lossy files whose own quality cannot be known."""
_COLOUR_PPM = re.compile(rb"P[36]" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3)


@dataclass(frozen=True)
class FileStyle:
    """What a file is besides its pixels.

    format: in which it is written, as Pillow calls it. suffix: what is added to its name because its own
    format cannot be written, otherwise "". notes: sentences about what cannot be kept.
    profile, exif, xmp: as their bytes; exif and xmp are upright. density: dots per inch. tags: of TIFF.
    parts: further parts of a JPEG or PNG file as their bytes. options: of the encoder.
    """

    format: str
    suffix: str = ""
    notes: tuple[str, ...] = ()
    profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    density: tuple[float, float] | None = None
    tags: Mapping[int, Any] = field(default_factory=dict)
    parts: bytes = b""
    options: Mapping[str, Any] = field(default_factory=dict)


def read(content: bytes) -> tuple[Values, FileStyle]:
    """Read an image, upright, and everything in its file besides pixels.

    Depth and colour space stay the same, but palettes become RGB or RGBA, CMYK becomes sRGB, and 10 to 14
    bits become 16.

    content: of the file.
    Returns uint8 or uint16 `[h, w, c]` and the style.
    Raises DataError for a file that cannot be read, has several images, or has values that are not levels.
    """
    kind = recognised(content)
    if kind in ("DICOM", "NIfTI"):
        raise DataError(f"{kind} files are edited as arrays in Python, which keeps their values.")
    header = image_files.inspect(content)
    if header.lacks:
        raise DataError(f"This image has 16 bits, which need more packages: {reasons.missing(header.lacks)}")
    deep = _COLOUR_PPM.match(content)
    if deep is not None and int(deep[3]) > 255:
        raise DataError("Colour of 16 bits is not read from PPM files: convert it to PNG or TIFF.")
    try:
        style = _style_of(content, kind)
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors on damaged metadata
        raise DataError(reasons.undecodable(content, error)) from error
    values = _values_of(image_files.read(content, own_colours=True))
    if kind == "PNG" and values.dtype == np.uint16 and values.shape[2] == 1:
        values = _with_transparent_level(values, containers.png_body(content, b"tRNS"))
    return np.require(values, requirements=["C", "W"]), style


def stripped(style: FileStyle) -> FileStyle:
    """Return a style without metadata.

    A colour profile other than sRGB stays, since the colours depend on it, and so do labels that say that the
    image was generated.
    """
    profile = b"" if _is_srgb(style.profile) else style.profile
    parts = containers.colour_chunks(style.parts) if style.format == "PNG" else b""
    try:
        xmp = labels.only_labels(style.xmp) if style.xmp else b""
    except DataError:  # metadata that cannot be read contain no labels
        xmp = b""
    return FileStyle(style.format, profile=profile, xmp=xmp, parts=parts, options=style.options)


def write(values: Values, style: FileStyle) -> bytes:
    """Write an image as a file of a style.

    Raises DataError if the format cannot hold the image.
    """
    channels = values.shape[2]
    if values.dtype == np.uint16 and style.format not in _DEEP:
        raise DataError(f"{style.format} cannot hold 16 bits: name an output that ends in .png or .tif.")
    if channels in (2, 4) and style.format in ("JPEG", "PPM", "BMP"):
        raise DataError(f"{style.format} cannot hold transparency: name an output that ends in .png.")
    if not _fits(style.profile, channels):
        style = replace(style, profile=b"")
    if style.exif:
        size = (values.shape[1], values.shape[0])
        style = replace(style, exif=exif.renewed(style.exif, size) or b"")
    try:
        return _WRITERS.get(style.format, _write_plain)(values, style)
    except (ValueError, OSError) as error:
        raise DataError(f"{style.format} cannot hold this image or its metadata ({error}).") from error


def in_format(style: FileStyle, name: str) -> FileStyle:
    """Convert a style to the format of a file name's suffix.

    Raises ConfigError for a format that cannot be written.
    """
    format = format_of(name)
    if format == style.format:
        return replace(style, suffix="")
    tags = style.tags
    return FileStyle(
        format,
        notes=tuple(note for note in style.notes if not style.suffix or "the result is PNG" not in note),
        profile=style.profile,
        exif=style.exif or (tiff.exif_of(tags) if tags else b""),
        xmp=style.xmp,
        density=style.density,
    )


def suffix_for(content: bytes) -> str:
    """Return the suffix to add to the name of a result.

    It is ".png" if the format of the input cannot be written, otherwise "".

    content: of the input file.
    """
    return "" if _format_in(content) in WRITTEN else ".png"


def format_of(name: str) -> str:
    """Return the image format that the suffix of a file name states.

    It has the name that Pillow uses.

    Raises ConfigError for a format that cannot be written.
    """
    suffix = PurePosixPath(name).suffix.lower()
    for format in FORMATS:
        if suffix in format.suffixes and format.name in WRITTEN:
            return format.name
    endings = ", ".join(format.suffixes[0] for format in FORMATS if format.name in WRITTEN)
    raise ConfigError(f"{name} cannot be written: its name must end in one of {endings}.")


def _format_in(content: bytes) -> str:
    """Return the format of a file, with Pillow's help where it has no signature."""
    if kind := recognised(content):
        return kind
    try:
        return image_files.opened(content).format or ""
    except DataError:
        return ""


def _style_of(content: bytes, kind: str) -> FileStyle:
    """Return the style of a file; raise DataError if it holds several images."""
    try:
        image = image_files.opened(content)
    except DataError:  # JPEG XL, and the TIFF files that only tifffile reads
        if kind == "TIFF":
            _check_count(scans.count_pages(content))
        format = kind if kind in WRITTEN else "PNG"
        note = f"The metadata of this {kind} file cannot be read and were left out."
        return FileStyle(format, "" if format == kind else ".png", (note,))
    format = "JPEG" if image.format == "MPO" else image.format or ""
    notes = _check_single(image)
    suffix = "" if format in WRITTEN else ".png"
    if suffix:
        notes += (f"{format} files cannot be written: the result is PNG.",)
    profile, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    if image.mode in ("CMYK", "LAB"):
        notes += (f"{image.mode} colours became sRGB.",)
        profile = None
    metadata = _exif_in(image, content)
    upright = exif.renewed(metadata) if metadata else b""
    if upright is None:
        notes += ("The EXIF data are damaged and were left out.",)
    parts = containers.Parts(b"")
    if format in ("JPEG", "PNG"):
        parts = (containers.jpeg_parts if format == "JPEG" else containers.png_parts)(content)
    return FileStyle(
        format if not suffix else "PNG",
        suffix,
        notes + parts.notes,
        profile=profile if isinstance(profile, bytes) else b"",
        exif=upright or b"",
        xmp=exif.renewed_xmp(xmp.encode() if isinstance(xmp, str) else xmp) if xmp else b"",
        density=_density_of(image),
        tags=tiff.tags_of(image) if format == "TIFF" else {},
        parts=b"" if suffix else parts.kept,
        options=_options_of(image, content),
    )


def _check_single(image: Image.Image) -> tuple[str, ...]:
    """Return notes about further images in a file; raise DataError for animations and pages."""
    count = int(getattr(image, "n_frames", 1))
    if image.format in ("MPO", "HEIF") and count > 1:
        return (f"The file holds {count - 1} more images, such as previews, which were left out.",)
    if image.format == "TIFF" and count > 1:
        pages = 0
        for number in range(count):
            image.seek(number)
            pages += not int(getattr(image, "tag_v2", {}).get(254, 0)) & 1  # a smaller copy of another page
        image.seek(0)
        count = pages
    _check_count(count)
    return ()


def _check_count(images: int) -> None:
    if images > 1:
        raise DataError(
            f"The file holds {images} images: save each as a file, and edit them with --sequence if they are "
            "a film."
        )


def _exif_in(image: Image.Image, content: bytes) -> bytes:
    if image.format == "PNG":
        if not (body := containers.png_body(content, b"eXIf")) and "Raw profile type exif" in image.info:
            return image.getexif().tobytes()  # as ImageMagick writes it
        return body
    found = image.info.get("exif") if image.format != "TIFF" else None
    return found if isinstance(found, bytes) else b""


def _density_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < _DENSEST and 0 < down < _DENSEST else None


def _options_of(image: Image.Image, content: bytes) -> dict[str, Any]:
    """Return how the pixels of a file were encoded, as options of its writer."""
    if isinstance(image, JpegImageFile):
        options: dict[str, Any] = {"progressive": bool(image.info.get("progressive"))}
        if image.layers in (1, 3):
            numbers = [layer[3] for layer in image.layer]
            while len(numbers) > 1 and numbers[-1] == numbers[-2]:  # the encoder repeats the last one
                numbers.pop()
            options["qtables"] = [image.quantization[number] for number in numbers]
            options["subsampling"] = max(
                get_sampling(image), 0
            )  # a rarer kind becomes none, which loses nothing
        return options
    if image.format == "WEBP":
        return webp.encoding(content)
    if image.format == "TIFF":
        return {"compression": tiff.RAW if image.info.get("compression") == "raw" else tiff.DEFLATE}
    if image.format == "TGA":
        return {"compression": image.info.get("compression")}
    return {}


def _values_of(image: Image.Image | Deep) -> Values:
    if isinstance(image, Image.Image):
        return images.conform(image, alpha="keep")
    values = image.values
    if image.full is None or image.full[0] != 0 or values.dtype.kind not in "ui":
        raise DataError(
            f"The file holds numbers of type {values.dtype}, not 8 or 16 bits: edit it as an array in Python."
        )
    if image.full[1] != 65535:
        values = np.round(values * (65535 / image.full[1]))
    return values.astype(np.uint16, copy=False)


def _with_transparent_level(values: Values, body: bytes) -> Values:
    """Add the alpha of a grey PNG of 16 bits with a transparent level, which Pillow ignores."""
    if len(body) != 2:
        return values
    alpha = np.where(values == int.from_bytes(body, "big"), 0, 65535).astype(np.uint16)
    return np.concatenate([values, alpha], axis=2)


def _fits(profile: bytes, channels: int) -> bool:
    """Return whether a colour profile is for grey or colour as the pixels are."""
    return not profile or (profile[16:20] == b"GRAY") == (channels < 3)


def _is_srgb(profile: bytes) -> bool:
    try:
        described = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return True  # nothing can be read from it, so that nothing depends on it
    return "srgb" in described.lower()


def _write_png(values: Values, style: FileStyle) -> bytes:
    chunks = containers.png_profile(style.profile) if style.profile else b""
    if style.density is not None and b"pHYs" not in style.parts:
        chunks += containers.png_density(style.density)
    chunks += style.parts
    chunks += containers.png_chunk(b"eXIf", style.exif) if style.exif else b""
    chunks += containers.png_xmp(style.xmp) if style.xmp else b""
    return containers.with_chunks(_png(values), chunks)


def _png(values: Values) -> bytes:
    if values.dtype == np.uint16 and values.shape[2] > 1:
        if not is_installed("scans"):
            raise DataError("Colours of 16 bits need imagecodecs: pip install 'danqing[scans]'.")
        from imagecodecs import png_encode

        return bytes(png_encode(values))
    return _saved(values, "PNG")


def _write_jpeg(values: Values, style: FileStyle) -> bytes:
    options: dict[str, Any] = {"subsampling": 0, "optimize": True, **style.options}
    if "qtables" not in options:
        options["quality"] = _QUALITY
    if style.density is not None:
        options["dpi"] = style.density
    exif_block = b"Exif\0\0" + style.exif if style.exif else b""
    return _saved(
        values,
        "JPEG",
        exif=exif_block,
        icc_profile=style.profile,
        xmp=style.xmp,
        extra=style.parts,
        **options,
    )


def _write_webp(values: Values, style: FileStyle) -> bytes:
    return _saved(
        values,
        "WEBP",
        exif=style.exif,
        icc_profile=style.profile,
        xmp=style.xmp,
        exact=True,  # colours under full transparency stay
        **(style.options or {"quality": _QUALITY}),
    )


def _write_tiff(values: Values, style: FileStyle) -> bytes:
    tags = style.tags or (tiff.tags_in(style.exif) if style.exif else {})
    return tiff.write(
        values,
        tags,
        compression=style.options.get("compression", tiff.DEFLATE),
        profile=style.profile,
        xmp=style.xmp,
        density=style.density,
    )


def _write_plain(values: Values, style: FileStyle) -> bytes:
    options = dict(style.options)
    if style.format == "BMP" and style.density is not None:
        options["dpi"] = style.density
    return _saved(values, style.format, **options)


def _saved(values: Values, format: str, **options: Any) -> bytes:
    """Encode with Pillow."""
    is_deep = values.dtype == np.uint16
    image = Image.fromarray(values[:, :, 0]) if is_deep else to_pil(values.astype(np.uint8, copy=False))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


_WRITERS = {"PNG": _write_png, "JPEG": _write_jpeg, "WEBP": _write_webp, "TIFF": _write_tiff}
