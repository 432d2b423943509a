"""The same numbers as independent libraries, from the same images and the same feature network."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.kernel import kernel_distance
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.reconstruction import ms_ssim, psnr, squared_error, ssim
from danqing.randomness import generator


class Network(nn.Module):
    """Images uint8 `[n, 3, h, w]` to 24 features."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = torch.randn(24, 3, 5, 5, generator=generator(0, "filters"))

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.conv2d(images.float() / 255, self.filters, stride=2)
        return x.relu().mean((2, 3))


def pictures(n: int, seed: int, *, size: tuple[int, int] = (20, 24), channels: int = 3) -> Tensor:
    """Smooth noise, uint8 `[n, h, w, c]`."""
    noise = torch.rand(n, channels, *size, generator=generator(seed, "pictures"))
    smooth = nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)
    return ((smooth - smooth.mean()) * 3 + 0.5).mul(255).clamp(0, 255).byte().permute(0, 2, 3, 1)


def noisy(images: Tensor, spread: float) -> Tensor:
    noise = torch.randn(images.shape, generator=generator(1, "noise")) * spread
    return (images + noise).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def sides() -> tuple[Tensor, Tensor]:
    real = pictures(220, 2)
    return noisy(pictures(150, 3), 12) // 2, real


def test_frechet_distance_is_that_of_torchmetrics(sides: tuple[Tensor, Tensor]) -> None:
    image = pytest.importorskip("torchmetrics.image.fid")
    generated, real = (side.permute(0, 3, 1, 2) for side in sides)
    network = Network()
    theirs = image.FrechetInceptionDistance(feature=network, input_img_size=(3, 20, 24)).set_dtype(
        torch.float64
    )
    theirs.update(generated, real=False)
    theirs.update(real, real=True)
    ours = frechet_distance(network(generated), network(real)).value
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-5)


def test_kernel_distance_is_that_of_torchmetrics(sides: tuple[Tensor, Tensor]) -> None:
    """With one subset of all images, theirs is ours."""
    image = pytest.importorskip("torchmetrics.image.kid")
    generated, real = (side.permute(0, 3, 1, 2)[:150] for side in sides)
    network = Network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = image.KernelInceptionDistance(feature=network, subsets=1, subset_size=150)
    theirs.update(generated, real=False)
    theirs.update(real, real=True)
    ours = kernel_distance(network(generated), network(real)).value
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
    assert abs(ours) > 1e-3


def test_precision_recall_density_and_coverage_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    real = torch.randn(300, 5, generator=generator(4, "rows"))
    generated = torch.randn(250, 5, generator=generator(5, "rows")) * 0.8 + 0.4
    for k in (3, 5):
        theirs = prdc.compute_prdc(real.numpy(), generated.numpy(), k)
        ours = manifold_scores(generated, real, k_pr=k, k_dc=k)
        assert {name: estimate.value for name, estimate in ours.items()} == pytest.approx(theirs)
        assert 0 < ours["recall"].value < 1


@pytest.mark.parametrize(("size", "channels"), [((11, 11), 1), ((20, 33), 3), ((64, 48), 4), ((40, 40), 2)])
def test_psnr_and_ssim_are_those_of_scikit_image(size: tuple[int, int], channels: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    targets = pictures(3, 6, size=size, channels=channels)
    images = noisy(targets, 20)
    for ours, similar, error, a, b in zip(
        psnr(images, targets),
        ssim(images, targets),
        squared_error(images, targets),
        images.numpy(),
        targets.numpy(),
        strict=True,
    ):
        assert float(ours) == pytest.approx(metrics.peak_signal_noise_ratio(b, a, data_range=255), rel=1e-9)
        assert float(error) == pytest.approx(metrics.mean_squared_error(b / 255, a / 255), rel=1e-9)
        theirs = metrics.structural_similarity(
            a,
            b,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        assert float(similar) == pytest.approx(theirs, rel=1e-7)


def test_ms_ssim_is_that_of_torchmetrics() -> None:
    """From 176 pixels on; theirs lets the window hang over the border where only structure is asked for."""
    image = pytest.importorskip("torchmetrics.functional.image")
    targets = pictures(2, 7, size=(192, 180), channels=1)
    images = noisy(targets, 25)
    theirs = image.multiscale_structural_similarity_index_measure(
        *(side.permute(0, 3, 1, 2).double() for side in (images, targets)), data_range=255.0, reduction="none"
    )
    np.testing.assert_allclose(ms_ssim(images, targets).numpy(), theirs.numpy(), rtol=2e-3)
