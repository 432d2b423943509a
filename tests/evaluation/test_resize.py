"""Both resizers against those that the published scores were made with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing.evaluation.resize import flattened, images_at_once, prepared

SIDES = st.integers(1, 60)


def _drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_antialiased_is_pillows_bicubic(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    """As clean-fid calls it: each channel as floating point numbers, cut to [0, 255] at the end."""
    images = _drawn(2, old[1], old[0], 3, seed=seed)
    found = prepared(images, new)
    for image, ours in zip(images.numpy(), found.numpy(), strict=True):
        for channel in range(3):
            picture = Image.fromarray(image[..., channel].astype(np.float32), mode="F")
            expected = np.asarray(picture.resize(new, Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(ours[channel], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("old", "new"), [((32, 32), (299, 299)), ((640, 480), (299, 299)), ((70, 50), (16, 16))]
)
def test_antialiased_is_within_a_level_of_pillows_rounded_pictures(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    """Away from black and white, that is: Pillow cuts what shoots over in between its two passes as well."""
    image = 64 + _drawn(1, old[1], old[0], 3) // 2
    expected = np.asarray(Image.fromarray(image[0].numpy()).resize(new, Image.Resampling.BICUBIC))
    assert np.abs(prepared(image, new)[0].round().permute(1, 2, 0).numpy() - expected).max() <= 1.0


@settings(max_examples=40, deadline=None)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_legacy_is_tensorflow_1s(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    """Pixel by pixel: the place is the new index times the ratio, with no half-pixel shift, in float32."""
    image = _drawn(1, old[1], old[0], 1, seed=seed)
    pixels = image[0, :, :, 0].numpy().astype(np.float64)
    expected = np.empty((new[1], new[0]))
    for row in range(new[1]):
        for column in range(new[0]):
            y = float(np.float32(row) * np.float32(old[1] / new[1]))
            x = float(np.float32(column) * np.float32(old[0] / new[0]))
            top, left = int(y), int(x)
            below, right = min(top + 1, old[1] - 1), min(left + 1, old[0] - 1)
            upper = pixels[top, left] + (pixels[top, right] - pixels[top, left]) * (x - left)
            lower = pixels[below, left] + (pixels[below, right] - pixels[below, left]) * (x - left)
            expected[row, column] = upper + (lower - upper) * (y - top)
    np.testing.assert_allclose(prepared(image, new, "legacy")[0, 0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("resizer", ["antialiased", "legacy"])
@pytest.mark.parametrize("new", [(3, 7), (40, 40), (9, 9)])
def test_a_picture_of_one_colour_stays_so(resizer: str, new: tuple[int, int]) -> None:
    image = torch.full((1, 9, 9, 3), 200, dtype=torch.uint8)
    torch.testing.assert_close(prepared(image, new, resizer), torch.full((1, 3, new[1], new[0]), 200.0))


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_what_is_transparent_shows_white(channels: int, mode: str) -> None:
    image = _drawn(1, 16, 16, channels)
    picture = Image.fromarray(image[0].numpy(), mode).convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    found = flattened(image).expand(-1, 3, -1, -1)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - np.asarray(white, np.float32)).max() <= 1
    assert (found == found.round()).all()


def test_grey_becomes_rgb() -> None:
    grey = _drawn(2, 8, 8, 1)
    assert torch.equal(prepared(grey, (12, 10)), prepared(grey.expand(-1, -1, -1, 3), (12, 10)))


@given(side=st.integers(1, 4096))
def test_fewer_large_pictures_than_small_ones_are_treated_at_once(side: int) -> None:
    count = images_at_once((side, side))
    assert count == 1 or count * side * side * 16 <= 64 * 2**20
    assert count & (count - 1) == 0
