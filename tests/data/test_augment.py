"""Augmentations do what they say, exactly where they can, and nothing when they are off."""

import pytest
import torch
from pydantic import ValidationError

from danqing.data import Augment
from danqing.images import to_float, to_uint8


def noise(n: int = 64, height: int = 8, width: int = 10, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=rng)


def test_off_is_the_plain_conversion() -> None:
    assert Augment().is_off
    assert torch.equal(Augment().apply(noise(), 0, 0), to_float(noise()))


def test_flips_are_exact_and_come_as_often_as_asked() -> None:
    images = noise(2000, 2, 3, 1)
    flipped = to_uint8(Augment(flip=0.25).apply(images, 1, 0))
    is_mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    is_same = (flipped == images).flatten(1).all(1)
    assert (is_mirrored | is_same).all()
    assert 0.2 < (is_mirrored & ~is_same).float().mean() < 0.3
    assert torch.equal(Augment(flip=1.0).apply(images, 1, 0), to_float(images.flip(2)))


def test_crops_are_whole_pixel_shifts_mirrored_at_the_border() -> None:
    images = noise(200)
    shifted = to_uint8(Augment(crop=0.25).apply(images, 2, 0))
    padded = torch.cat([images.flip(1), images, images.flip(1)], dim=1)
    padded = torch.cat([padded.flip(2), padded, padded.flip(2)], dim=2)
    found = torch.zeros(200, dtype=torch.bool)
    shifts = set()
    for down in range(-2, 3):
        for right in range(-3, 4):
            window = padded[:, 8 + down : 16 + down, 10 + right : 20 + right]
            same = (window == shifted).flatten(1).all(1)
            found |= same
            if same.any():
                shifts.add((down, right))
    assert found.all()
    assert len(shifts) > 15


def test_a_half_turn_is_a_half_turn_and_no_turn_is_none() -> None:
    wide = to_float(noise(4, 6, 12))
    augment = Augment(rotation=180)
    half = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]).expand(4, 2, 3)
    from danqing.data.augment import _turned

    assert torch.allclose(_turned(wide, half), wide.flip(2, 3), atol=1e-5)
    turned = augment.apply(noise(4, 6, 12), 0, 0)
    assert turned.shape == wide.shape
    assert not torch.allclose(turned, wide)


def test_a_rotation_turns_pixels_by_the_angle_whatever_the_proportions() -> None:
    """A point keeps its distance from the centre in pixels, not in fractions of the sides."""
    height, width = 41, 81
    image = torch.zeros(1, height, width, 1, dtype=torch.uint8)
    image[0, 19:22, 54:57] = 255  # 15 to the right of the centre (20, 40)
    augment = Augment(rotation=90)
    for seen in range(5):
        turned = augment.apply(image, 0, seen)[0, 0] + 1
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        turned = turned * ((rows - 20) ** 2 + (columns - 40) ** 2 < 19**2)  # without mirror images
        y, x = (turned * rows).sum() / turned.sum() - 20, (turned * columns).sum() / turned.sum() - 40
        assert float((x**2 + y**2).sqrt()) == pytest.approx(15, abs=0.5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_everything_at_once_stays_in_range_and_leaves_alpha_uncoloured(channels: int) -> None:
    images = noise(16, channels=channels)
    every = Augment(flip=True, rotation=30, scale=0.5, crop=0.2, colour=1.0)
    result = every.apply(images, 0, 64)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert float(result.abs().max()) <= 1
    assert torch.equal(result, every.apply(images, 0, 64))
    assert not torch.equal(result, every.apply(images, 0, 128))
    if channels in (2, 4):
        coloured = Augment(colour=1.0).apply(images, 0, 0)
        assert torch.equal(coloured[:, -1], to_float(images)[:, -1])


def test_hidden_colours_stay_hidden_when_turned() -> None:
    images = torch.zeros(8, 16, 16, 4, dtype=torch.uint8)
    images[:, :, :8] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
    images[:, :, 8:] = torch.tensor([0, 255, 0, 0], dtype=torch.uint8)
    result = Augment(rotation=45).apply(images, 0, 0)
    visible = result[:, 3] > -0.9
    assert float(result[:, 1][visible].max()) < -0.9


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"flip": 1.5}, {"rotation": -1}, {"hue": 0.1}):
        with pytest.raises(ValidationError):
            Augment(**wrong)
