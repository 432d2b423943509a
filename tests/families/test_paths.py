"""Paths: every one predicts the image, and its loss is zero where the prediction is right."""

import math

import pytest
import torch
from torch.nn import functional as F

from danqing.families import paths

COMBINATIONS = [
    ("linear", "image"),
    ("linear", "residual"),
    ("linear", "velocity"),
    ("linear", "noise"),
    ("vp", "image"),
    ("vp", "velocity"),
    ("vp", "noise"),
    ("edm", "image"),
]


def points(n: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Times, images and noise."""
    rng = torch.Generator().manual_seed(0)
    t = torch.linspace(0.06, 0.94, n)
    return t, torch.rand((n, 3, 4, 4), generator=rng) * 2 - 1, torch.randn((n, 3, 4, 4), generator=rng)


def right_output(
    path: str, prediction: str, z: torch.Tensor, x: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """What a network would have to return for the image `x`, from the papers' own formulas."""
    t = t.view(-1, 1, 1, 1)
    if path == "edm" or prediction == "residual":
        sigma, scale = (1 - t) / t, paths.DATA_SCALE
        noisy = z / t  # x + σ ε
        c_skip = scale**2 / (sigma**2 + scale**2)
        c_out = sigma * scale / (sigma**2 + scale**2).sqrt()
        return (x - c_skip * noisy) / c_out
    velocity = (x - z) / (1 - t)
    return {"image": x, "velocity": velocity, "noise": x - velocity}[prediction]


@pytest.mark.parametrize(("path", "prediction"), COMBINATIONS)
def test_the_right_output_predicts_the_image_and_has_no_loss(path: str, prediction: str) -> None:
    t, x, noise = points()
    z = paths.mix(t, x, noise)
    output = right_output(path, prediction, z, x, t)
    torch.testing.assert_close(paths.predicted_image(path, prediction, output, z, t), x, rtol=1e-4, atol=1e-4)
    assert paths.training_loss(path, prediction, output, x, noise, t).max() < 1e-6


@pytest.mark.parametrize(("path", "prediction"), COMBINATIONS)
def test_a_wrong_output_costs_what_the_papers_weigh_it_by(path: str, prediction: str) -> None:
    t, x, noise = points()
    z = paths.mix(t, x, noise)
    output = right_output(path, prediction, z, x, t) + 0.1
    loss = paths.training_loss(path, prediction, output, x, noise, t)
    expected = (0.1 / (1 - t).clamp_min(paths.LEAST_NOISE)) ** 2 if prediction == "image" else 0.01
    expected = torch.as_tensor(expected).expand_as(t).clone()
    if path == "edm":
        expected[:] = 0.01
    elif prediction == "residual":
        expected *= paths.DATA_SCALE**2 / ((1 - t) ** 2 + (paths.DATA_SCALE * t) ** 2)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("path", paths.PATHS)
def test_the_input_of_a_network_is_the_noisy_image_of_its_own_path(path: str) -> None:
    """α and σ of each path, from its paper, give what the scaled point of the linear path gives."""
    t, x, noise = points()
    scaled = paths.PATHS[path].input_scale(t).view(-1, 1, 1, 1) * paths.mix(t, x, noise)
    wide = t.view(-1, 1, 1, 1)
    if path == "vp":
        u = paths.PATHS[path].clock(t).view(-1, 1, 1, 1)
        expected = (math.pi / 2 * u).sin() * x + (math.pi / 2 * u).cos() * noise
    elif path == "edm":
        sigma = (1 - wide) / wide
        expected = (x + sigma * noise) / (sigma**2 + paths.DATA_SCALE**2).sqrt()
    else:
        expected = wide * x + (1 - wide) * noise
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
    clock = paths.PATHS[path].clock(torch.tensor([0.0, 0.3, 1.0]))
    assert clock.isfinite().all()
    assert (clock >= 0).all()
    assert (clock <= 1).all()


def test_stratified_numbers_lie_one_in_each_part() -> None:
    drawn = paths.stratified(50, torch.Generator().manual_seed(3), torch.device("cpu"))
    assert torch.equal((drawn * 50).long(), torch.arange(50))


def test_times_have_the_distributions_that_they_are_named_for() -> None:
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logit = torch.logit(paths.draw_times("linear", "logit_normal", -0.4, 1.5, uniforms).double())
    assert logit.mean() == pytest.approx(-0.4, abs=1e-3)
    assert logit.std() == pytest.approx(1.5, abs=1e-2)
    assert paths.draw_times("linear", "uniform", 0, 1, uniforms).mean() == pytest.approx(0.5, abs=1e-4)
    t = paths.draw_times("edm", "uniform", 0, 1, uniforms).double()
    log_sigma = ((1 - t) / t).log()
    assert log_sigma.mean() == pytest.approx(-1.2, abs=1e-3)
    assert log_sigma.std() == pytest.approx(1.2, abs=1e-2)
    u = paths.PATHS["vp"].clock(paths.draw_times("vp", "uniform", 0, 1, uniforms))
    torch.testing.assert_close(u.double(), uniforms, rtol=1e-4, atol=1e-4)


def test_only_pixels_under_the_mask_count() -> None:
    t, x, noise = points(2)
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    output = x.clone()
    output[..., 2:] += 1
    assert paths.training_loss("linear", "image", output, x, noise, t, mask).max() == 0


def test_coarse_noise_gives_all_sizes_the_same_energy():
    noise = torch.randn(64, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(paths.coarsened(noise, 1.0), noise)
    for factor in (1.5, 2.0):
        coarse = paths.coarsened(noise, factor)
        for halvings in range(6):
            area = 2**halvings
            average = F.avg_pool2d(coarse, area)
            if area < 32:  # what the next halving removes
                average = average - F.interpolate(F.avg_pool2d(average, 2), scale_factor=2.0)
            expected = (1 if area == 32 else 0.75) * (factor / 2) ** (2 * halvings)
            assert average.square().mean().item() == pytest.approx(expected, rel=0.2)
    for size in ((5, 7), (1, 9), (1, 1)):
        odd = torch.randn(3, 1, *size)
        assert paths.coarsened(odd, 2.0).shape == odd.shape
        whole = paths.coarsened(odd, 2.0)
        assert torch.allclose(paths.coarsened(odd[1:2], 2.0), whole[1:2])
