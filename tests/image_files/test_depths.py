"""Values of more than 8 bits: how their range is chosen, and that no format loses them."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing.errors import DataError
from danqing.image_files import decode, inspect, value_range
from danqing.image_files.formats import is_installed
from tests.image_files.files import file_of

RNG = np.random.default_rng(0)


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1023, 5000).round(), (0, 1023)),
        (np.linspace(0, 900, 5000).round(), (0, 1023)),
        (np.linspace(0, 4000, 5000).round(), (0, 4095)),
        (np.append(np.linspace(0, 4000, 5000).round(), 65535), (0, 4095)),
        (np.linspace(0, 60000, 5000).round(), (0, 65535)),
        (np.linspace(0, 255, 5000).round(), (0, 255)),
        (np.append(np.linspace(0, 1, 5000), 1.004), (0, 1)),
        (np.append(np.linspace(0, 1, 5000), [np.nan, np.inf, -np.inf, 1e9]), (0, 1)),
        (np.linspace(-1, 1, 5000), (-1, 1)),
        (np.linspace(0, 0.01, 10001), (0, 0.00999)),
        (np.linspace(-1000, 2000, 3001), (-997, 1997)),
        (np.append(np.zeros(9999), 300), (0, 1023)),
        (np.zeros(10), (0, 1)),
        (np.array([np.nan]), (0, 1)),
    ],
)
def test_the_range_is_natural_where_it_fits_and_from_percentiles_otherwise(
    values: np.ndarray, expected: tuple[float, float]
) -> None:
    assert value_range(values) == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.floats(width=32), max_size=50), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_range_is_always_in_order_and_finite(values: list[float], whole: bool) -> None:
    low, high = value_range(np.trunc(values) if whole and values else np.array(values))
    assert np.isfinite([low, high]).all()
    assert low < high


def test_a_given_range_is_used_and_what_is_outside_is_clamped() -> None:
    content = tiff(np.array([[-2000, -1000, 0, 1000, 3000]], np.int16))
    assert decode(content, range=(-1000, 1000)).ravel().tolist() == [0, 0, 128, 255, 255]
    deep = decode(content, range=(-1000, 1000), depth=16)
    assert deep.dtype == np.uint16
    assert deep.ravel().tolist() == [0, 0, 32768, 65535, 65535]


def test_what_is_not_a_number_becomes_black() -> None:
    content = tiff(np.array([[np.nan, 0, 0.5, 1, np.inf, -np.inf]], np.float32))
    assert decode(content).ravel().tolist() == [0, 0, 128, 255, 255, 0]


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<u4", ">i4", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_every_number_type_of_tiff_is_read_at_its_depth(dtype: str, compression: str | None) -> None:
    values = RNG.integers(0, 2**15, (9, 7)).astype(dtype)
    content = tiff(values, compression=compression, byteorder=dtype[0])
    assert inspect(content)[3] == 16
    pixels = decode(content, range=(0, 65535), depth=16)
    assert np.array_equal(pixels[:, :, 0], values.astype(np.float64))


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("format", ["png", "tiff", "planar"])
def test_colour_of_16_bits_is_read_at_its_depth(channels: int, format: str) -> None:
    values = RNG.integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    if format == "png":
        content = imagecodecs.png_encode(values)
    elif channels == 2:
        pytest.skip("grey with alpha is rare in TIFF")
    elif format == "tiff":
        content = tiff(values, photometric="rgb", extrasamples=["unassalpha"] if channels == 4 else None)
    else:
        content = tiff(np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate",
                       extrasamples=["unassalpha"] if channels == 4 else None)  # fmt: skip
    assert inspect(content) == ((7, 9), channels > 2, channels != 3, 16, "")
    assert np.array_equal(decode(content, alpha="keep", range=(0, 65535), depth=16), values)


def test_without_the_extra_colour_of_16_bits_is_read_at_8_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = RNG.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    monkeypatch.setattr("danqing.image_files.reading.is_installed", lambda extra: False)
    content = imagecodecs.png_encode(values)
    assert inspect(content)[3:] == (8, "scans")
    assert np.abs(decode(content).astype(int) - values // 257).max() <= 1
    assert is_installed("scans")


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_images_are_resized_as_shallow_ones_are(fit: str, channels: int) -> None:
    shallow = np.random.default_rng(channels).integers(0, 256, (40, 60, channels), dtype=np.uint8)
    shallow = np.asarray(Image.fromarray(shallow[:, :, 0]).resize((60, 40)))[:, :, None].repeat(channels, 2)
    options = {"size": (16, 16), "fit": fit, "alpha": "keep", "background": "#336699"}
    small = decode(imagecodecs.png_encode(shallow), **options).astype(int)
    deep = imagecodecs.png_encode(shallow.astype(np.uint16) * 257)
    again = decode(deep, **options, range=(0, 65535)).astype(int)
    if channels in (2, 4):  # what is nearly clear may have any colour
        small, again = (np.round(one * (one[:, :, -1:] / 255)) for one in (small, again))
    # Pillow rounds colours times alpha to 8 bits between its two passes, which shows where alpha overshoots.
    assert np.abs(small - again).max() <= (8 if channels in (2, 4) else 5)


def test_transparency_of_16_bits_is_laid_on_the_background() -> None:
    values = np.full((4, 4, 4), 65535, np.uint16)
    values[:, :, 3] = 0
    pixels = decode(imagecodecs.png_encode(values), background="#ff0000", range=(0, 4095))
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_twelve_bits_in_a_tiff_that_says_so_are_scaled_by_them() -> None:
    assert is_installed("scans")
    content = tiff(np.array([[0, 2048, 4095]], np.uint16))
    assert decode(content, range=(0, 4095)).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_xl_is_read_at_its_depth_and_its_size_is_known_before(dtype: type) -> None:
    top = np.iinfo(dtype).max
    values = RNG.integers(0, top + 1, (24, 40, 3), dtype=dtype)
    content = imagecodecs.jpegxl_encode(values, lossless=True)
    assert inspect(content).size == (40, 24)
    assert np.array_equal(decode(content, depth=16), values.astype(np.uint16) * (257 if top == 255 else 1))
    with pytest.raises(DataError, match="40x24 pixels"):
        decode(content, max_pixels=900)
    with pytest.raises(DataError):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize("size", [(40, 24), (256, 256), (1920, 1080), (300, 17), (1000, 3)])
def test_the_size_in_a_jpeg_xl_header_is_read_right(size: tuple[int, int]) -> None:
    from danqing.image_files.scans import jpeg_xl_size

    values = np.zeros((size[1], size[0], 3), np.uint8)
    assert jpeg_xl_size(imagecodecs.jpegxl_encode(values, effort=1)) == size
    assert jpeg_xl_size(imagecodecs.jpegxl_encode(values, effort=1, usecontainer=True)) == size


def test_tiffs_that_pillow_does_not_open_are_read() -> None:
    values = RNG.random((9, 7, 3)).astype(np.float32)
    pixels = decode(tiff(values, photometric="rgb"), depth=16)
    assert np.abs(pixels / 65535 - values).max() < 1e-4
    many = RNG.integers(0, 255, (9, 7, 9), dtype=np.uint16)
    with pytest.raises(DataError, match="channels"):
        decode(tiff(many, photometric="minisblack", planarconfig="contig"))


def test_cmyk_of_16_bits_is_not_taken_for_rgb_with_alpha() -> None:
    ink = np.zeros((8, 8, 4), np.uint16)
    ink[:, :, 1:3] = 65535  # magenta and yellow make red
    pixels = decode(tiff(ink, photometric="separated"))
    assert np.abs(pixels[0, 0].astype(int) - (255, 0, 0)).max() < 4


def test_a_fourth_channel_that_is_not_alpha_is_left_out() -> None:
    values = RNG.integers(0, 65536, (9, 7, 4), dtype=np.uint16)
    content = tiff(values, photometric="rgb", extrasamples=["unspecified"])
    pixels = decode(content, alpha="keep", range=(0, 65535), depth=16)
    assert np.array_equal(pixels, values[:, :, :3])


def test_a_huge_tiff_is_refused_before_it_is_decoded() -> None:
    content = tiff(np.zeros((64, 64, 3), np.float32), photometric="rgb")
    with pytest.raises(DataError, match="shrink it first"):
        decode(content, max_pixels=1000)


def test_an_unsupported_compression_is_not_called_truncated() -> None:
    content = bytearray(file_of(Image.new("L", (8, 8)), "TIFF"))
    place = int.from_bytes(content[4:8], "little")
    for number in range(int.from_bytes(content[place : place + 2], "little")):
        entry = place + 2 + 12 * number
        if int.from_bytes(content[entry : entry + 2], "little") == 259:
            content[entry + 8 : entry + 10] = (61234).to_bytes(2, "little")
    with pytest.raises(DataError) as refused:
        decode(bytes(content))
    assert "truncated" not in str(refused.value)
    assert "compression" in str(refused.value).lower()
