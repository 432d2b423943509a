"""The noise of a scan at a lower dose, against scikit-image and against the statistics of counts."""

import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch

from danqing.data.degrade import Degradation
from danqing.data.dose import ABSORPTION, projected, reconstructed, with_dose

HEIGHT, WIDTH = 40, 54


def phantom() -> torch.Tensor:
    """A slice of a head, `[1, 1, h, w]` in [0, 1]."""
    slice_ = skimage.transform.resize(skimage.data.shepp_logan_phantom(), (HEIGHT, WIDTH), anti_aliasing=True)
    return torch.from_numpy(slice_).float()[None, None]


def test_a_slice_is_reconstructed_as_well_as_by_scikit_image() -> None:
    side = 54
    square = torch.zeros(1, 1, side, side)
    square[:, :, 7:47] = phantom()
    rays = projected(square)
    angles = np.arange(rays.shape[2]) * 180 / rays.shape[2]
    theirs = skimage.transform.radon(square[0, 0].numpy(), angles, circle=False)
    again = skimage.transform.iradon(theirs, angles, circle=False)
    error = (reconstructed(rays, (side, side)) - square).square().mean().sqrt()
    assert error < 1.1 * float(np.sqrt(np.mean((again - square[0, 0].numpy()) ** 2)))
    totals = rays.sum(3).flatten()  # all of a slice is seen from every direction
    torch.testing.assert_close(totals, square.sum().expand_as(totals), rtol=1e-4, atol=0)


def test_the_variance_falls_as_photons_grow_and_rises_with_what_absorbs() -> None:
    def variance(level: float, photons: float) -> float:
        slices = torch.full((4, 1, HEIGHT, WIDTH), level)
        noisy = with_dose(slices, torch.full((4,), photons), [1, 2, 3, 4])
        return float((noisy - slices).var())

    air = [variance(-1.0, photons) for photons in (1_000, 10_000, 100_000)]
    assert air[0] / air[1] == pytest.approx(10, rel=0.1)
    assert air[1] / air[2] == pytest.approx(10, rel=0.1)
    # A count of N e^-p photons gives -log(count / N) the variance e^p / N.
    bone = variance(1.0, 10_000)
    shortest = ABSORPTION * HEIGHT / WIDTH
    assert np.exp(shortest / 2) < bone / air[1] < np.exp(2 * ABSORPTION)


def test_each_slice_follows_from_its_own_seed() -> None:
    slices = phantom().repeat(3, 2, 1, 1) * 2 - 1  # two channels; an image of its own each
    photons = torch.tensor([1_000.0, 5_000.0, 1_000.0])
    noisy = with_dose(slices, photons, [7, 8, 7])
    assert torch.equal(noisy[0], noisy[2])
    alone = with_dose(slices[1:2], photons[1:2], [8])
    torch.testing.assert_close(alone[0], noisy[1], rtol=0, atol=1e-4)
    assert not torch.allclose(noisy[0, 0], noisy[0, 1], atol=0.01)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_dose_is_a_step_of_a_degradation(channels: int) -> None:
    slices = phantom().repeat(2, channels, 1, 1) * 2 - 1
    low, high = (Degradation(f"dose{photons}").apply(slices, [3, 4]) for photons in (500, 50_000))
    colours = channels - (channels in (2, 4))
    errors = [(noisy - slices)[:, :colours].square().mean() for noisy in (low, high)]
    assert errors[0] > 20 * errors[1]
    torch.testing.assert_close(low[:, colours:], slices[:, colours:], rtol=0, atol=1 / 255)
    assert Degradation("dose").in_words() == "X-ray noise of 2000 to 50000 photons per ray"
