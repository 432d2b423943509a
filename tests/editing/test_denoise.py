"""Denoising from the noisy image alone: it helps, follows from its seed, and knows correlated noise."""

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn import functional as F

from danqing.editing import zero_shot
from danqing.editing.arrays import edit_array
from danqing.editing.contract import ImageToEdit
from danqing.editing.denoise import ZeroShotDenoise
from danqing.errors import ConfigError, DataError

CLEAN = skimage.data.astronaut()[:96, 130:226]


def psnr(pixels: np.ndarray, clean: np.ndarray, top: float = 255.0) -> float:
    return float(10 * np.log10(top**2 / np.mean((pixels.astype(float) - clean) ** 2)))


def noise(shape: tuple[int, ...], deviation: float, blur: float = 0.0) -> np.ndarray:
    """Gaussian noise `[h, w, c]`; blurred noise gets the same deviation."""
    drawn = torch.randn(shape[2], 1, *shape[:2], generator=torch.Generator().manual_seed(1))
    if blur:
        places = torch.arange(-6, 7, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (places / blur).square())[None, None, None]
        drawn = F.conv2d(F.conv2d(drawn, kernel, padding=(0, 6)), kernel.transpose(2, 3), padding=(6, 0))
    return (drawn / drawn.std() * deviation)[:, 0].permute(1, 2, 0).numpy()


def noisy(deviation: float, blur: float = 0.0) -> np.ndarray:
    levels = CLEAN + noise(CLEAN.shape, deviation, blur)
    return levels.round().clip(0, 255).astype(np.uint8)


def test_white_noise_is_removed_and_the_result_follows_from_the_seed() -> None:
    values, edit = noisy(25), ZeroShotDenoise(steps=30)
    first, again, other = (edit.apply(ImageToEdit(values, seed)) for seed in (1, 1, 2))
    assert psnr(first, CLEAN) > psnr(values, CLEAN) + 6
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_network_has_about_20_000_weights() -> None:
    for channels, weights in ((1, 15_241), (3, 16_763)):
        rng = torch.Generator().manual_seed(0)
        network = zero_shot.Denoiser(channels, stride=1, sigma=0.1, rng=rng)
        assert sum(one.numel() for one in network.parameters()) == weights


def test_correlated_noise_needs_a_stride() -> None:
    values = noisy(20, blur=1.0)
    white, correlated, auto = (
        psnr(ZeroShotDenoise(noise=kind, steps=20).apply(ImageToEdit(values, 1)), CLEAN)
        for kind in ("white", "correlated", "auto")
    )
    assert correlated > psnr(values, CLEAN) + 2
    assert correlated > white + 1
    assert auto == correlated, "the stride is measured"


@pytest.mark.parametrize(("blur", "stride"), [(0.0, 1), (1.0, 3)])
def test_the_reach_of_noise_is_measured(blur: float, stride: int) -> None:
    images = torch.from_numpy(noise((128, 128, 1), 0.2, blur)).permute(2, 0, 1)[None]
    assert zero_shot.independent_stride(images) == stride


def test_phases_and_pairs_are_what_they_are_called() -> None:
    images = torch.arange(2 * 3 * 12 * 6, dtype=torch.float32).view(2, 3, 12, 6)
    parts = zero_shot.phases(images, 3)
    assert torch.equal(parts[4], images[0, :, 1::3, 1::3])
    assert torch.equal(zero_shot.joined(parts, 3), images)
    first, second = zero_shot.pair(images)
    one = torch.tensor([[[[0.0, 0.5], [0.5, 0.0]]]]).expand(3, -1, -1, -1)
    torch.testing.assert_close(first, F.conv2d(images, one, stride=2, groups=3))
    torch.testing.assert_close(second, F.conv2d(images, one.flip(3), stride=2, groups=3))


def test_non_local_means_are_those_of_their_definition() -> None:
    image, sigma = torch.rand(1, 2, 9, 8, generator=torch.Generator().manual_seed(0)), 0.2
    found = zero_shot.non_local_means(image, sigma)
    padded = F.pad(image, (7,) * 4, mode="replicate")[0].numpy()

    def patch(y: int, x: int) -> np.ndarray:
        return padded[:, y + 5 : y + 10, x + 5 : x + 10]

    y, x = 3, 6
    total, weights = np.zeros(2), 0.0
    for dy in range(-5, 6):
        for dx in range(-5, 6):
            distance = np.mean((patch(y, x) - patch(y + dy, x + dx)) ** 2)
            weight = np.exp(-max(distance - 2 * sigma**2, 0) / (0.8 * sigma) ** 2)
            total += weight * padded[:, y + dy + 7, x + dx + 7]
            weights += weight
    np.testing.assert_allclose(found[0, :, y, x].numpy(), total / weights, rtol=1e-4)


def test_tiles_do_not_show() -> None:
    values = noisy(25)
    whole, tiled = (
        ZeroShotDenoise(noise="white", steps=5, tile=tile).apply(ImageToEdit(values, 1)) for tile in (0, 64)
    )
    assert np.array_equal(whole, tiled)


def test_16_bits_transparency_and_numbers_of_scans_are_kept() -> None:
    deep = np.concatenate([noisy(25).astype(np.uint16) * 257, np.full((96, 96, 1), 9_000, np.uint16)], axis=2)
    edit = ZeroShotDenoise(steps=2)
    found = edit.apply(ImageToEdit(deep, 1))
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 3], deep[..., 3])
    assert len(np.unique(found[..., 0])) > 1_000, "it did not pass through 8 bits"
    scan = (noisy(25)[..., 0].astype(np.int16) - 100) * 8  # as in Hounsfield units
    clean = (CLEAN[..., 0].astype(np.int16) - 100) * 8
    for numbers in (scan, scan.astype(np.float32)):
        restored = edit_array(edit, numbers, 1)
        assert restored.dtype == numbers.dtype
        assert psnr(restored, clean, 2_040) > psnr(numbers, clean, 2_040) + 4


def test_what_has_no_noise_stays_as_it_is() -> None:
    flat = np.full((40, 40, 3), 7, np.uint8)
    assert np.array_equal(ZeroShotDenoise(steps=1).apply(ImageToEdit(flat, 1)), flat)
    assert not ZeroShotDenoise(strength=0).changes(ImageToEdit(flat, 1))


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose auto, white or correlated"):
        ZeroShotDenoise(noise="pink")
    with pytest.raises(DataError, match="5x9 pixels is too small"):
        ZeroShotDenoise().apply(ImageToEdit(np.zeros((9, 5, 1), np.uint8), 1))
