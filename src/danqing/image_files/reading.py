"""From image files to pixels: opened under limits, upright, in sRGB, at any size and depth."""

import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from danqing import images
from danqing.errors import ConfigError, DataError
from danqing.image_files import medical, metadata, reasons, scans
from danqing.image_files.formats import is_installed, pillow_formats, recognised
from danqing.image_files.levels import Deep, DeepPixels, Range, conform, deepened
from danqing.images import Alpha, Pixels
from danqing.sizes import Fit, too_large

MAX_PIXELS = 64_000_000
"""Larger images are rejected before they are decoded: decompression bombs, or scans to shrink first."""
MAX_BYTES = 256 * 1024 * 1024
"""Larger files are rejected without reading them."""

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_T = TypeVar("_T")
_GREY_MODES = ("1", "L", "LA", "La", *_DEEP_MODES)

# Problems of a file become a DataError or do not matter. Libraries would print them.
for _library in ("PIL", "pydicom", "nibabel", "nibabel.global", "tifffile", "pillow_heif", "pi_heif"):
    warnings.filterwarnings("ignore", module=rf"{_library}\b")
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)


class Frame(NamedTuple):
    """One image of a file that has several.

    A slice of a NIfTI volume, or a frame of a DICOM file.
    """

    source: bytes | Path
    number: int


class Header(NamedTuple):
    """The properties of an image before it is decoded.

    size: upright (width, height). transparent: whether it may be. depth: 16 if its values have more than 8
    bits, otherwise 8. lacks: the missing extra that would read it at its full depth, or "".
    """

    size: tuple[int, int]
    colour: bool
    transparent: bool
    depth: int = 8
    lacks: str = ""


@overload
def decode(
    source: bytes | str | Path | Frame,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    depth: Literal[8] = 8,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Pixels: ...
@overload
def decode(
    source: bytes | str | Path | Frame,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    depth: int,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Pixels | DeepPixels: ...
def decode(
    source: bytes | str | Path | Frame,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    depth: int = 8,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Pixels | DeepPixels:
    """Decode the image in a file, upright and in sRGB.

    Returns uint8 or uint16 `[h, w, c]`.

    source: the bytes of a file, its path, or a `Frame`. The first image of an animation is read, and the
    middle one of a volume.
    size: (width, height), reached as `fit` says; None keeps that of the file.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; 0 keeps those of the file, and `alpha` decides
    whether transparency is kept or put on `background`.
    range: the (low, high) that become black and white, for values of more than 8 bits; None takes the range
    that the number format or the values of this image suggest.
    depth: 8 for uint8 with 255 as white, 16 for uint16 with 65,535.
    Raises DataError for anything that cannot be decoded or exceeds the limits.
    """
    try:
        image = _read(source, size, max_pixels, max_bytes)
        return convert(
            image, size=size, channels=channels, alpha=alpha, background=background, fit=fit, range=range,
            depth=depth,
        )  # fmt: skip
    except MemoryError as error:
        raise DataError("The image does not fit into memory.") from error


def convert(
    image: "Image.Image | Deep | Pixels",
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    depth: int = 8,
) -> Pixels | DeepPixels:
    """Convert an image in memory to a size, channels and depth.

    See `decode`.
    """
    shape: dict[str, Any] = {
        "size": size,
        "channels": channels,
        "alpha": alpha,
        "background": background,
        "fit": fit,
    }
    if isinstance(image, Image.Image) and image.mode in _DEEP_MODES:
        image = _deep(image)
    if isinstance(image, Deep):
        return conform(image, **shape, range=range, depth=depth)
    pixels = images.conform(image, **shape)
    return pixels if depth == 8 else deepened(pixels)


def read(source: bytes | str | Path | Frame, *, own_colours: bool = False) -> Image.Image | Deep:
    """Decode an image upright, in its own size, mode and depth.

    own_colours: whether RGB and grey stay in the colour space of the file's profile; otherwise they become
        sRGB.
    Raises DataError.
    """
    return _read(source, None, MAX_PIXELS, MAX_BYTES, own_colours=own_colours)


def deep_values(source: bytes | Path | Frame) -> Deep | None:
    """Decode an image to its own values.

    None if it has at most 8 bits. Raises DataError.
    """
    image = _read(source, None, MAX_PIXELS, MAX_BYTES)
    return image if isinstance(image, Deep) else None


def inspect(
    source: bytes | str | Path | Frame, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Header:
    """Read the header of an image file; raise DataError."""
    content, _ = _content(source, max_bytes)

    def header() -> Header:
        if isinstance(content, Path) or recognised(content) == "NIfTI":
            size, colour, _ = medical.nifti_shape(content)
            return Header(size, colour, False, 8 if colour else 16)
        if recognised(content) == "DICOM":
            size, colour, depth, _ = medical.dicom_shape(content, max_pixels)
            return Header(size, colour, False, depth)
        if recognised(content) == "JPEG XL" and is_installed("scans"):
            return _header_of(scans.read_jpeg_xl(content, max_pixels))
        try:
            image = opened(content, max_pixels=max_pixels)
        except DataError:
            if recognised(content) != "TIFF" or not is_installed("scans"):
                raise
            return _header_of(scans.read_tiff(content, max_pixels))
        width, height = image.size
        if metadata.orientation(image, content) >= 5:
            width, height = height, width
        is_grey_png = image.format == "PNG" and content[25:26] in (b"\0", b"\4")
        colour = image.mode not in _GREY_MODES and not is_grey_png
        deep = image.mode in _DEEP_MODES or _needs_scans(image, content)
        lacks = "scans" if image.mode not in _DEEP_MODES and deep and not is_installed("scans") else ""
        transparent = image.has_transparency_data and image.mode not in _DEEP_MODES
        return Header((width, height), colour, transparent, 16 if deep and not lacks else 8, lacks)

    return _explained(content, header)


def frames(source: bytes | Path) -> int:
    """Count the images in a file.

    Slices of a NIfTI volume, frames of a DICOM file, otherwise 1.
    """
    content, _ = _content(source, MAX_BYTES)

    def count() -> int:
        if isinstance(content, Path) or recognised(content) == "NIfTI":
            return medical.nifti_shape(content)[2]
        return medical.dicom_shape(content, MAX_PIXELS)[3] if recognised(content) == "DICOM" else 1

    return _explained(content, count)


def opened(
    content: bytes,
    *,
    max_pixels: int | None = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """Open an image file with Pillow without decoding it.

    Remove metadata that prevents this.

    max_pixels: None leaves the limit to the caller. formats: as Pillow calls them; None is all readable ones.
    Raises DataError.
    """
    if not content:
        raise DataError("The file is empty.")
    chosen = pillow_formats() if formats is None else formats
    try:
        try:
            image = Image.open(io.BytesIO(content), formats=chosen)
        except Image.DecompressionBombError:
            raise
        except Exception:  # malformed metadata, or too much of it
            bare = metadata.without(content)
            if bare is None:
                raise
            image = Image.open(io.BytesIO(bare), formats=chosen)
    except Image.DecompressionBombError as error:
        raise DataError("The image has far too many pixels: shrink it first.") from error
    except UnidentifiedImageError as error:
        raise DataError(reasons.unidentified(content)) from error
    except Exception as error:  # Pillow's decoders raise many kinds of errors on hostile input
        raise DataError(reasons.undecodable(content, error)) from error
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise DataError(too_large(image.size, max_pixels))
    return image


def _read(
    source: bytes | str | Path | Frame,
    size: tuple[int, int] | None,
    max_pixels: int,
    max_bytes: int,
    *,
    own_colours: bool = False,
) -> Image.Image | Deep:
    content, frame = _content(source, max_bytes)

    def read() -> Image.Image | Deep:
        kind = "NIfTI" if isinstance(content, Path) else recognised(content)
        if kind == "NIfTI":
            return medical.read_nifti(content, frame, max_pixels)
        assert isinstance(content, bytes)
        if kind == "DICOM":
            return medical.read_dicom(content, frame, max_pixels)
        if kind == "JPEG XL" and is_installed("scans"):
            return scans.read_jpeg_xl(content, max_pixels)
        return _pillow_or_scans(content, size, max_pixels, own_colours=own_colours)

    return _explained(content, read)


def _pillow_or_scans(
    content: bytes, size: tuple[int, int] | None, max_pixels: int, *, own_colours: bool = False
) -> Image.Image | Deep:
    try:
        image = opened(content, max_pixels=max_pixels)
    except DataError:
        if recognised(content) != "TIFF" or not is_installed("scans"):
            raise
        return scans.read_tiff(content, max_pixels)
    if is_installed("scans") and _needs_scans(image, content):
        turn = metadata.orientation(image, content)
        deep = scans.read_png(content) if image.format == "PNG" else scans.read_tiff(content, max_pixels)
        return _upright(deep, turn)
    if size is not None and image.width > 2 * size[0] and image.height > 2 * size[1]:
        # JPEG only: decode at a half, quarter or eighth when that leaves at least twice the requested size.
        image.draft(None, (2 * max(size), 2 * max(size)))
    try:
        image.load()
    except Exception:  # a PNG may have its text after its pixels
        bare = metadata.without(content)
        if bare is None:
            raise
        image = Image.open(io.BytesIO(bare), formats=pillow_formats())
        image.load()
    if image.width * image.height > max_pixels:  # containers whose header states another size
        raise DataError(too_large(image.size, max_pixels))
    turn = metadata.orientation(image, content)
    if image.mode in _DEEP_MODES:
        return _upright(_deep(image, content), turn)
    is_kept = own_colours and image.mode not in ("CMYK", "LAB")
    return _upright(image if is_kept else metadata.to_srgb(image), turn)


def _upright(image: Image.Image | Deep, turn: int) -> Image.Image | Deep:
    if isinstance(image, Deep):
        return image._replace(values=metadata.upright_values(image.values, turn))
    return metadata.upright(image, turn)


def _explained(content: bytes | Path, work: Callable[[], _T]) -> _T:
    """Do `work`, and turn all its errors into a DataError with the right reason for the file."""
    try:
        return work()
    except (DataError, ConfigError):
        raise
    except Exception as error:  # decoders raise many kinds of errors on hostile input
        head = content if isinstance(content, bytes) else b""
        raise DataError(reasons.undecodable(head, error)) from error


def _content(source: bytes | str | Path | Frame, max_bytes: int) -> tuple[bytes | Path, int | None]:
    """Return the bytes of a file, or the path of a NIfTI file, which is read once for all its slices."""
    frame = None
    if isinstance(source, Frame):
        source, frame = source
    if isinstance(source, bytes):
        if len(source) > max_bytes:
            raise DataError(_over(max_bytes))
        return source, frame
    path = Path(source)
    try:
        with open(path, "rb", buffering=0) as file:
            if path.name.lower().endswith((".nii", ".nii.gz")) and recognised(file.read(4096)) == "NIfTI":
                return path, frame
            file.seek(0)
            if os.fstat(file.fileno()).st_size > max_bytes:
                raise DataError(_over(max_bytes))
            return file.read(), frame
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def _over(max_bytes: int) -> str:
    return f"The file has over {max_bytes / 2**20:.0f} MiB: shrink it first."


def _needs_scans(image: Image.Image, content: bytes) -> bool:
    """Return whether Pillow reduces an image to 8 bits (colour, and grey with alpha), or is unreliable.

    It swaps the bytes of some compressed TIFF files, so tifffile reads all deep ones if it is installed.
    """
    if image.format == "PNG":
        return content[24:25] == b"\x10" and content[25:26] in (b"\x02", b"\x04", b"\x06")
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (8,))
        is_plain = tags.get(262) in (0, 1, 2)  # grey or RGB; Pillow reads CMYK and others, at 8 bits
        return is_plain and bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    return False


def _deep(image: Image.Image, content: bytes = b"") -> Deep:
    """Return a grey image of more than 8 bits that Pillow has decoded."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits, kinds = tags.get(258, (16,)), tags.get(339, (1,))
    swapped = tags and content[:2] == b"MM" and tags.get(259, 1) != 1 and image.mode in ("F", "I")
    if swapped:
        raise DataError("Only tifffile can read this TIFF file: pip install 'danqing[scans]'.")
    if image.mode == "F":
        return Deep(values[:, :, np.newaxis])
    if image.mode == "I":
        if tags and kinds[0] == 1 and bits[0] == 32:  # Pillow has no unsigned type of this width
            values = values.view(np.uint32)
        full = None if tags or values.max(initial=0) > 65535 else (0.0, 65535.0)
        return Deep(values[:, :, np.newaxis], full)
    deepest = bits[0] if 8 < bits[0] < 16 else 16
    return Deep(values[:, :, np.newaxis], (0.0, 2.0**deepest - 1))


def _header_of(image: Image.Image | Deep) -> Header:
    if isinstance(image, Deep):
        height, width, channels = image.values.shape
        return Header((width, height), channels > 2, channels in (2, 4), 16)
    return Header(image.size, image.mode not in _GREY_MODES, image.has_transparency_data)
