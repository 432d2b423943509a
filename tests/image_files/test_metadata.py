"""Bad metadata never costs good pixels; colour profiles are applied, and those of no use are ignored."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from danqing.image_files import decode, inspect
from danqing.image_files.metadata import MAX_PROFILE
from tests.image_files.files import file_of, photo


def exif_of_a_phone(orientation: int) -> bytes:
    """An EXIF block whose XResolution is text, as some cameras write it."""
    text = b"72 dpi\0\0"
    entries = [
        (0x010F, 2, len(text), 38 + 12),  # Make
        (0x0112, 3, 1, orientation),
        (0x011A, 2, len(text), 38 + 12),  # XResolution: a rational in the standard
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
        directory += struct.pack("<HHI", tag, kind, count) + packed
    return b"Exif\0\0II*\0\x08\0\0\0" + directory + b"\0\0\0\0" + text


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes, at_the_end: bool = False) -> bytes:
    """The photo as PNG with further chunks before its pixels, or after them."""
    content = file_of(photo())
    place = len(content) - 12 if at_the_end else 33
    return content[:place] + b"".join(chunks) + content[place:]


PIXELS = np.asarray(photo())
LONG_TEXT = zlib.compress(b"word " * 250_000)
HUGE = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG_TEXT),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG_TEXT),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(8_000_000))),
    "damaged": chunk(b"tEXt", b"Comment\0hello")[:-1] + b"!",
}


def test_a_rotated_photo_with_a_malformed_tag_is_read_upright() -> None:
    content = file_of(photo(), "JPEG", quality=95, exif=exif_of_a_phone(6))
    expected = np.asarray(photo().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert inspect(content).size == (30, 40)
    assert np.abs(decode(content).astype(int) - expected).mean() < 4


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("name", HUGE)
def test_a_png_with_too_much_metadata_is_read_without_it(name: str, at_the_end: bool) -> None:
    content = png_with(HUGE[name], at_the_end=at_the_end)
    assert np.array_equal(decode(content), PIXELS)
    assert inspect(content).size == (40, 30)


def test_the_orientation_survives_when_text_is_left_out() -> None:
    exif = exif_of_a_phone(3).removeprefix(b"Exif\0\0")
    content = png_with(chunk(b"eXIf", exif), HUGE["zTXt"])
    assert np.array_equal(decode(content), PIXELS[::-1, ::-1])


def test_a_jpeg_with_damaged_segments_keeps_its_pixels() -> None:
    content = file_of(photo(), "JPEG", quality=95)
    comment = b"\xff\xe2" + struct.pack(">H", 20) + b"MPF\0" + b"\xff" * 14
    spoiled = content[:2] + comment + content[2:]
    assert np.array_equal(decode(spoiled), decode(content))


def profile_of(red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float]) -> bytes:
    """An ICC profile with the transfer curve of sRGB and other primaries (x, y), D50 as white."""
    white = np.array([0.9642, 1.0, 0.8249])
    d65 = np.array([0.9505, 1.0, 1.089])
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    primaries = xyz * np.linalg.solve(xyz, d65)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ white) / (bradford @ d65)) @ bradford
    columns = (adapt @ primaries).T

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"Wide colours"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" * (1 + 79),
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(fixed, white)),
        **{name: b"XYZ \0\0\0\0" + b"".join(map(fixed, column))
           for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }  # fmt: skip
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", place + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, white))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = profile_of((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_wide_profile_is_converted_to_srgb(format: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 120, 110))
    content = file_of(image, format, icc_profile=P3, **({"lossless": True} if format == "WEBP" else {}))
    # By the matrices of Display P3 and sRGB, with a curve of 2.2 on one side and sRGB's on the other.
    linear = (np.array([200, 120, 110]) / 255) ** 2.2
    matrix = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    seen = matrix @ linear
    expected = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055) * 255
    assert np.abs(decode(content)[8, 8] - expected).max() < 3
    assert decode(content)[8, 8, 0] > 205  # redder than the stored 200


def test_transparency_survives_the_conversion_of_a_profile() -> None:
    image = Image.new("RGBA", (8, 8), (200, 120, 110, 77))
    pixels = decode(file_of(image, icc_profile=P3), alpha="keep")
    assert pixels[0, 0, 3] == 77
    assert pixels[0, 0, 0] > 205


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile at all",
        P3[:200],
        P3[:16] + b"CMYK" + P3[20:],
        P3 + bytes(MAX_PROFILE),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["text", "cut", "other space", "huge", "sRGB"],
)
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_profiles_of_no_use_and_of_srgb_change_nothing(profile: bytes, format: str) -> None:
    plain = file_of(photo(), format)
    assert np.array_equal(decode(file_of(photo(), format, icc_profile=profile)), decode(plain))


def test_nothing_that_libraries_say_reaches_the_user() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 100)
    files = [
        file_of(photo(), "TIFF")[:-40],
        file_of(Image.new("RGB", (10_000, 9_500))),
        file_of(photo(), "JPEG", exif=exif_of_a_phone(6)),
        file_of(Image.fromarray(np.array([[np.nan, np.inf, 1e30]], np.float32)), "TIFF"),
    ]
    script = (
        "import sys, io, struct\n"
        "from danqing.image_files import decode\n"
        "from danqing.errors import DataError\n"
        "data = sys.stdin.buffer\n"
        "while head := data.read(8):\n"
        "    try: decode(data.read(struct.unpack('<Q', head)[0]))\n"
        "    except DataError as error: pass\n"
    )
    sent = b"".join(struct.pack("<Q", len(content)) + content for content in files)
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_bytes_after_the_end_do_not_matter() -> None:
    for format in ("PNG", "JPEG", "GIF"):
        content = file_of(photo(), format)
        assert np.array_equal(decode(content + b"\0" * 20), decode(content))
    assert io.BytesIO(content).read(4) == b"GIF8"
