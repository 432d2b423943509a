"""Image files: what Pillow reads, upright and under limits, and hostile ones."""

import contextlib
import gzip
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing.errors import DataError
from danqing.image_files import decode, frames, inspect
from tests.image_files.files import file_of, photo
from tests.image_files.test_depths import tiff
from tests.image_files.test_medical import dicom, nifti


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), "PNG"),
        (Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), "TIFF"),
        (Image.fromarray(np.array([[0, 32768, 65535]], np.int32)), "TIFF"),
        (Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32)), "TIFF"),
        (Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"),
        (Image.fromarray(np.array([[0, 127.6, 255]], np.float32)), "TIFF"),
    ],
)
def test_deep_grey_is_scaled_not_cut(image: Image.Image, format: str) -> None:
    assert decode(file_of(image, format)).flatten().tolist() == [0, 128, 255]


def test_dark_scans_of_16_bits_stay_dark() -> None:
    scan = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert decode(file_of(scan)).max() == 1  # 200 of 65,535, not of 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(image, "PNG", exif=exif.tobytes())
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = image.transpose(turns[orientation]) if orientation in turns else image
    assert np.array_equal(decode(content), np.asarray(upright))
    assert inspect(content) == (upright.size, True, False, 8, "")


def test_cmyk_jpeg_is_not_inverted() -> None:
    red = Image.new("RGB", (16, 16), "red").convert("CMYK")
    assert np.abs(decode(file_of(red, "JPEG")).astype(int) - (255, 0, 0)).max() < 4


def test_palette_transparency_and_first_frame() -> None:
    frames = [Image.new("RGBA", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].putpixel((0, 0), (0, 0, 0, 0))
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    kept = decode(content, alpha="keep")
    assert kept[4, 4].tolist() == [255, 0, 0, 255]
    assert kept[0, 0, 3] == 0
    assert decode(content, background="#00ff00")[0, 0].tolist() == [0, 255, 0]


def png_of_size(width: int, height: int) -> bytes:
    """A tiny file whose header promises a huge picture."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"not an image", "not an image in a format"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript is not supported"),
        (png_of_size(10_000, 10_000), "shrink it first"),
        (png_of_size(60_000, 60_000), "shrink it first"),
        (file_of(photo(), "JPEG")[:400], "is truncated"),
        (file_of(photo())[:-200], "is truncated"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        decode(content, size=(8, 8))


def test_files_over_the_limit_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file_of(photo()))
    with pytest.raises(DataError, match="shrink"):
        decode(tmp_path / "a.png", max_bytes=10)
    with pytest.raises(DataError, match="cannot be read"):
        decode(tmp_path / "missing.png")


SEEDS = [
    file_of(photo(), "PNG"),
    file_of(photo(), "JPEG"),
    file_of(photo(), "WEBP"),
    file_of(photo(), "GIF"),
    file_of(photo(), "TIFF", compression="tiff_lzw"),
    file_of(photo(), "BMP"),
    file_of(photo(), "TGA"),
    file_of(photo(), "ICO"),
    file_of(photo(), "PPM"),
    file_of(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF"),
    file_of(photo(), "AVIF"),
    dicom(np.zeros((8, 8), np.uint16), RescaleSlope=2, RescaleIntercept=-7),
    nifti(np.zeros((8, 8, 4), np.int16)),
    gzip.compress(nifti(np.zeros((8, 8, 4), np.float32))),
    imagecodecs.jpegxl_encode(np.asarray(photo())),
    imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint16)),
    tiff(np.zeros((8, 8, 3), np.uint16), photometric="rgb", compression="deflate", tile=(16, 16)),
]


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_only_data_errors_come_out_of_damaged_files(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([b"", *SEEDS])) or data.draw(st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    for function in (decode, inspect, frames):
        with contextlib.suppress(DataError):
            function(damaged)
