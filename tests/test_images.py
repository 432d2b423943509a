"""Pixels in memory: conversions, every mode, sizes and channels, and grids."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from danqing.errors import ConfigError
from danqing.image_files import decode
from danqing.images import Images, conform, encode, to_float, to_pil, to_uint8, to_uint16
from tests.image_files.files import file_of, photo


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9), st.integers(1, 4)),
    )
)
@settings(max_examples=40, deadline=None)
def test_bytes_survive_the_way_to_floats_and_back(pixels: np.ndarray) -> None:
    floats = to_float(torch.from_numpy(pixels))
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert floats.shape == (pixels.shape[0], pixels.shape[3], pixels.shape[1], pixels.shape[2])
    assert np.array_equal(to_uint8(floats).numpy(), pixels)
    assert torch.equal(to_float(torch.from_numpy(pixels).permute(0, 3, 1, 2)), floats)


def test_all_values_of_16_bits_survive_the_way_to_floats_and_back() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(1, 256, 256, 1)
    assert np.array_equal(to_uint16(to_float(torch.from_numpy(values))).numpy(), values)


def test_the_ends_of_the_range_are_exact_and_what_is_outside_is_clamped() -> None:
    ends = to_float(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1))
    assert ends.flatten().tolist() == [-1.0, 1.0]
    outside = torch.tensor([-7.0, 7.0, float("nan")]).view(1, 1, 1, 3)
    assert to_uint8(outside).flatten().tolist() == [0, 255, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_every_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, channels), dtype=np.uint8)
    assert np.array_equal(decode(encode(pixels), alpha="keep"), pixels)


@pytest.mark.parametrize("format", ["png", "webp", "jpeg", ".JPG"])
def test_every_format_that_is_offered_is_written(format: str) -> None:
    decoded = decode(encode(np.asarray(photo()), format, quality=95))
    assert np.abs(decoded.astype(int) - np.asarray(photo())).mean() < 8
    with pytest.raises(ConfigError, match="choose png"):
        encode(photo(), "gif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_every_mode_comes_out_with_the_channels_asked_for(mode: str, channels: int) -> None:
    image = photo().convert(mode) if mode not in ("LA", "PA") else photo().convert("L").convert(mode)
    if image.mode in ("LA", "PA", "RGBA"):
        image.putalpha(128)
    pixels = conform(image, channels=channels, alpha="keep", size=(6, 5))
    natural = {"1": 1, "L": 1, "LA": 2, "PA": 4, "RGBA": 4}.get(mode, 3)
    assert pixels.shape == (5, 6, channels or natural)
    assert pixels.dtype == np.uint8


def test_grey_on_a_coloured_background_gets_colour_and_on_grey_stays_grey() -> None:
    clear = np.zeros((4, 4, 2), np.uint8)
    assert conform(clear, background="#808080").tolist() == np.full((4, 4, 1), 128).tolist()
    assert conform(clear, background="#ff0000", channels=3)[0, 0].tolist() == [255, 0, 0]


def test_hidden_colours_do_not_bleed_when_transparent_pictures_shrink() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (255, 0, 0, 255)
    pixels[:, 32:] = (0, 255, 0, 0)  # green, but fully transparent
    small = conform(pixels, size=(5, 5), alpha="keep")
    assert small[small[:, :, 3] > 8][:, 1].max() == 0


def test_fit_crops_the_middle_pads_with_the_background_or_stretches() -> None:
    bars = np.zeros((20, 80, 1), np.uint8)
    bars[:, :10], bars[:, 70:] = 255, 255
    assert conform(bars, size=(8, 4), fit="crop").max() < 5
    padded = conform(bars, size=(8, 4), fit="pad", background="#646464")[:, :, 0]
    assert padded[0].tolist() == padded[3].tolist() == [100] * 8
    assert padded[1, 2:6].max() < 30
    stretched = conform(bars, size=(8, 4), fit="stretch")[:, :, 0].astype(int)
    assert stretched[:, [0, 7]].min() > 200
    assert stretched[:, 2:6].max() < 30
    clear = conform(bars.repeat(4, axis=2), size=(8, 4), fit="pad", alpha="keep")
    assert clear[0, :, 3].max() == 0


def test_shrinking_is_antialiased_and_draft_mode_keeps_the_picture() -> None:
    checks = np.indices((512, 512)).sum(axis=0) % 2 * np.uint8(255)
    assert np.ptp(conform(checks[:, :, None].astype(np.uint8), size=(16, 16)).astype(int)[2:-2, 2:-2]) <= 8
    large = photo(800, 600)
    quick = decode(file_of(large, "JPEG", quality=95), size=(40, 30)).astype(int)
    assert np.abs(quick - np.asarray(large.resize((40, 30), Image.Resampling.LANCZOS))).mean() < 4


def test_images_index_iterate_and_show_themselves() -> None:
    images = Images(np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3))
    assert len(images) == 3
    assert images[1].shape == (4, 5, 3)
    assert len(images[1:]) == len(images[[0, 2]]) == 2
    assert [picture.size for picture in images.to_pil()] == [(5, 4)] * 3
    assert np.array_equal(np.stack(list(images)), images.array)
    assert images._repr_png_().startswith(b"\x89PNG")
    assert "3 of 5x4" in repr(images)
    with pytest.raises(ValueError, match="uint8"):
        Images(np.zeros((1, 2, 2, 3), np.float32))


@pytest.mark.parametrize(("n", "columns"), [(1, None), (2, None), (7, None), (7, 3), (2, 3)])
def test_a_grid_shows_every_pixel_enlarged_and_in_order(n: int, columns: int | None) -> None:
    pixels = np.random.default_rng(n).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
    grid = np.asarray(Images(pixels).grid(columns, gap=2, scale=3))
    per_row = (grid.shape[1] - 2) // (8 * 3 + 2)
    assert columns is None or per_row == min(n, columns)
    for number in range(n):
        row, column = divmod(number, per_row)
        top, left = 2 + row * 20, 2 + column * 26
        assert np.array_equal(grid[top : top + 18 : 3, left : left + 24 : 3], pixels[number])
    assert Images(np.zeros((64, 32, 32, 3), np.uint8)).grid().width > 500


def test_transparency_in_a_grid_is_kept_or_shown_over_a_checker() -> None:
    images = Images(np.zeros((2, 8, 8, 4), np.uint8))
    assert images.grid().mode == "RGBA"
    assert len(images.grid(checker=True).getcolors(10)) == 2


def test_saving_writes_the_format_of_the_ending_and_nothing_else(tmp_path: Path) -> None:
    images = Images(np.full((2, 8, 8, 4), 255, np.uint8))
    for name, format in (("a.png", "PNG"), ("b.webp", "WEBP"), ("c.jpg", "JPEG")):
        with Image.open(images.save(tmp_path / name)) as saved:
            assert saved.format == format
    assert images.save_each(tmp_path / "each", ".JPG") == [
        tmp_path / "each" / name for name in ("0.jpg", "1.jpg")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.webp", "c.jpg", "each"]
    with pytest.raises(ConfigError):
        images.save(tmp_path / "d.tiff")


def test_one_picture_is_saved_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode(Images(pixels).save(tmp_path / "one.png")), pixels[0])
    assert to_pil(pixels[0]).size == (7, 9)
