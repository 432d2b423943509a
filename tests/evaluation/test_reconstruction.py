"""Pairs of images: equal ones are at the best value, known differences at known ones."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation import reconstruction
from danqing.evaluation.reconstruction import ms_ssim, ms_ssim_scales, perceptual, psnr, squared_error, ssim
from danqing.randomness import generator


def noise(n: int, height: int, width: int, channels: int, seed: int = 0) -> Tensor:
    shape = (n, height, width, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed, "noise"))


class Layers:
    """Two stages: the pixels, and each side by side with its right neighbour, halved."""

    batch_size = 32

    def stages(self, images: Tensor) -> list[Tensor]:
        x = images.permute(0, 3, 1, 2).float()
        return [x, F.avg_pool2d(torch.cat([x, x.roll(1, 3)], 1), 2)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_equal_images_are_at_the_best(channels: int) -> None:
    images = noise(3, 24, 31, channels)
    assert squared_error(images, images).tolist() == [0, 0, 0]
    assert psnr(images, images).tolist() == [torch.inf] * 3
    for similarity in (ssim, ms_ssim):
        torch.testing.assert_close(similarity(images, images), torch.ones(3, dtype=torch.float64))
    assert perceptual(images, images, Layers()).tolist() == [0, 0, 0]


def test_a_constant_difference() -> None:
    dark, light = torch.full((1, 16, 16, 3), 100, dtype=torch.uint8), torch.full((1, 16, 16, 3), 151).byte()
    assert float(squared_error(dark, light)) == pytest.approx(0.04)
    assert float(psnr(dark, light)) == pytest.approx(13.9794, abs=1e-4)
    c1 = (0.01 * 255) ** 2
    assert float(ssim(dark, light)) == pytest.approx((2 * 100 * 151 + c1) / (100**2 + 151**2 + c1), rel=1e-9)


def test_opposed_structure_is_0_on_several_scales() -> None:
    images = F.interpolate(noise(2, 8, 8, 3).permute(0, 3, 1, 2).float(), 44).permute(0, 2, 3, 1).byte()
    assert (ssim(images, 255 - images) < 0).all()
    assert ms_ssim(images, 255 - images).tolist() == [0, 0]


def test_one_scale_is_ssim_and_more_forgive_fine_noise() -> None:
    small = noise(2, 21, 40, 3)
    other = noise(2, 21, 40, 3, seed=1)
    torch.testing.assert_close(ms_ssim(small, other), ssim(small, other).clamp_min(0))
    smooth = F.interpolate(noise(2, 6, 6, 3).permute(0, 3, 1, 2).float(), 96, mode="bilinear")
    images = smooth.permute(0, 2, 3, 1).byte()
    grain = (images + torch.randn(images.shape, generator=generator(2, "grain")) * 12).clamp(0, 255).byte()
    assert (ms_ssim(images, grain) > ssim(images, grain)).all()


def test_how_many_scales_fit() -> None:
    sizes = {11: 1, 21: 1, 22: 2, 43: 2, 44: 3, 87: 3, 88: 4, 175: 4, 176: 5, 4000: 5}
    assert {side: ms_ssim_scales(side, 5000) for side in sizes} == sizes
    assert {side: ms_ssim_scales(5000, side) for side in sizes} == sizes
    for side in (22, 45, 91, 176):
        assert ms_ssim(noise(1, side, 200, 1), noise(1, side, 200, 1, seed=1)).isfinite().all()


def test_perceptual_distance_by_hand() -> None:
    """One place: activations (3, 4) and (4, 3) have unit vectors 0.2 apart in each of two channels."""

    class Two:
        batch_size = 1

        def stages(self, images: Tensor) -> list[Tensor]:
            return [images.permute(0, 3, 1, 2).float(), images.permute(0, 3, 1, 2).float() * 7]

    a = torch.tensor([[[[3, 4]]], [[[0, 0]]]], dtype=torch.uint8)
    b = torch.tensor([[[[4, 3]]], [[[0, 5]]]], dtype=torch.uint8)
    torch.testing.assert_close(perceptual(a, b, Two()), torch.tensor([0.08, 1.0], dtype=torch.float64))


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = noise(5, 30, 25, 3), noise(5, 30, 25, 3, seed=1)
    measures, seen = (squared_error, ssim, ms_ssim), list[int]()
    whole = [measure(images, targets) for measure in measures]
    planes = reconstruction._planes

    def watched(part: Tensor) -> Tensor:
        seen.append(len(part))
        return planes(part)

    monkeypatch.setattr(reconstruction, "_planes", watched)
    monkeypatch.setattr(reconstruction, "_NUMBERS", 2 * 30 * 25 * 3)
    torch.testing.assert_close([each(images, targets) for each in measures], whole, rtol=1e-12, atol=0)
    assert seen == [2, 2, 2, 2, 1, 1] * 3


def test_a_network_is_shown_as_many_images_as_it_takes_at_once() -> None:
    class Few(Layers):
        batch_size = 4

        def stages(self, images: Tensor) -> list[Tensor]:
            assert len(images) == 4
            return super().stages(images)

    images, targets = noise(6, 12, 12, 3), noise(6, 12, 12, 3, seed=1)
    found = perceptual(images, targets, Few())
    torch.testing.assert_close(
        found, torch.cat([perceptual(images[i:][:1], targets[i:][:1], Few()) for i in range(6)])
    )


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(EvaluationError, match="11x11"):
        ssim(noise(1, 10, 40, 3), noise(1, 10, 40, 3))
    with pytest.raises(EvaluationError, match="11x11"):
        ms_ssim(noise(1, 40, 10, 3), noise(1, 40, 10, 3))
    for measure in (squared_error, psnr, ssim, ms_ssim):
        with pytest.raises(EvaluationError, match="one size"):
            measure(noise(1, 20, 20, 3), noise(1, 20, 21, 3))
