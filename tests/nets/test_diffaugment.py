"""DiffAugment: deterministic, differentiable, and what each change is."""

import pytest
import torch

from danqing.nets.diffaugment import augment, colour, cutout, translation

KINDS = ("colour", "translation", "cutout")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deterministic_and_differentiable(channels: int) -> None:
    images = torch.randn(6, channels, 9, 14, requires_grad=True)
    first, again = augment(images, KINDS, seeded(1)), augment(images, KINDS, seeded(1))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, KINDS, seeded(2)))
    first.square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum() > 0


def test_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state()
    augment(torch.randn(2, 3, 8, 8, generator=seeded(0)), KINDS, seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_translation_moves_by_whole_pixels_and_fills_with_zero() -> None:
    height, width = 16, 24
    images = torch.arange(1.0, height * width + 1).reshape(1, 1, height, width).expand(50, 1, -1, -1)
    shifts = set()
    for moved in translation(images, seeded(0)):
        # the first pixel that is not fill shows the shift
        values = moved[0][moved[0] > 0].long() - 1
        y, x = (moved[0] > 0).nonzero()[0].tolist()
        dy, dx = int(values[0]) // width - y, int(values[0]) % width - x
        expected = torch.zeros(height, width)
        rows = slice(max(0, -dy), height - max(0, dy))
        columns = slice(max(0, -dx), width - max(0, dx))
        source = images[0, 0, rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
        expected[rows, columns] = source
        assert torch.equal(moved[0], expected)
        shifts.add((dy, dx))
    assert {abs(dy) for dy, _ in shifts} == {0, 1, 2}
    assert {abs(dx) for _, dx in shifts} == {0, 1, 2, 3}


def test_cutout_zeroes_at_most_its_rectangle() -> None:
    zeros = (cutout(torch.ones(100, 2, 16, 12), seeded(0)) == 0).float().mean((1, 2, 3))
    assert zeros.max() == pytest.approx(0.25)
    assert zeros.min() >= 1 / 16  # a quarter of the rectangle remains when its centre is in a corner


def test_colour_keeps_grey_images_grey() -> None:
    images = torch.randn(5, 1, 4, 4).expand(-1, 3, -1, -1)
    changed = colour(images, seeded(0))
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1))
