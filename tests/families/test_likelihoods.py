"""The likelihoods against closed forms: masses that sum to one, densities of another implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import ConfigError
from danqing.families.likelihoods import Bernoulli, LocationScale, build_likelihood

LEVELS = (2 * torch.arange(256) / 255 - 1).reshape(256, 1, 1, 1)
LOCATION_SCALES = ("gaussian", "logistic")


@pytest.mark.parametrize("name", LOCATION_SCALES)
@settings(max_examples=60, deadline=None)
@given(location=st.floats(-1.5, 1.5), scale=st.floats(0.002, 5.0))
def test_masses_of_the_256_levels_sum_to_one(name: str, location: float, scale: float) -> None:
    log_mass = build_likelihood(name, scale).log_prob(torch.full_like(LEVELS, location), LEVELS)
    assert torch.isfinite(log_mass).all()
    assert log_mass.double().exp().sum().item() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("name", LOCATION_SCALES)
def test_a_scale_per_pixel_sums_to_one_and_separates_the_pixels(name: str) -> None:
    likelihood = build_likelihood(name, "pixel")
    output = torch.tensor([0.3, -2.0]).reshape(1, 2, 1, 1).expand(256, 2, 1, 1)
    assert likelihood.log_prob(output, LEVELS).exp().sum().item() == pytest.approx(1, abs=1e-4)
    sharper = likelihood.log_prob(torch.tensor([0.3, -4.0]).reshape(1, 2, 1, 1), LEVELS[166:167])
    assert sharper.item() > likelihood.log_prob(output[:1], LEVELS[166:167]).item()


@pytest.mark.parametrize(
    ("name", "density"),
    [
        ("gaussian", lambda d, s: -0.5 * (d / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))),
        ("logistic", lambda d, s: -d / s - math.log(s) - 2 * math.log1p(math.exp(-d / s))),
    ],
)
def test_inner_masses_approach_density_times_width(name: str, density: object) -> None:
    for location, scale in ((0.0, 0.2), (0.4, 0.5), (-0.3, 0.1)):
        mass = build_likelihood(name, scale).log_prob(torch.full((1, 1, 1, 1), location), LEVELS[100:101])
        expected = density(LEVELS[100].item() - location, scale) + math.log(2 / 255)  # type: ignore[operator]
        assert mass.item() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", LOCATION_SCALES)
def test_far_tails_keep_finite_values_and_gradients_that_pull_back(name: str) -> None:
    likelihood = build_likelihood(name, 0.01)
    output = torch.tensor([-1.0, 1.0, -1.0, 0.5]).reshape(4, 1, 1, 1).requires_grad_()
    images = LEVELS[[255, 0, 200, 0]]
    likelihood.log_prob(output, images).sum().backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert (output.grad.sign() == (images - output).sign()).all()


def test_the_learned_scale_finds_the_deviation_of_the_pixels() -> None:
    torch.manual_seed(0)
    images = (0.2 * torch.randn(8, 1, 8, 8)).clamp(-1, 1)
    likelihood = build_likelihood("gaussian", "learned")
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (-likelihood.log_prob(torch.zeros_like(images), images).mean() / 64).backward()
        optimizer.step()
    scale = likelihood.scale()
    assert scale is not None
    assert scale.item() == pytest.approx(images.std().item(), rel=0.02)


def test_bernoulli_is_the_probability_of_white() -> None:
    likelihood = Bernoulli()
    logits = torch.tensor([0.0, math.log(3.0)]).reshape(2, 1, 1, 1)
    white = torch.ones(2, 1, 1, 1)
    assert likelihood.log_prob(logits, white).exp().tolist() == pytest.approx([0.5, 0.75])
    assert likelihood.log_prob(logits, -white).exp().tolist() == pytest.approx([0.5, 0.25])
    assert likelihood.mean(logits).flatten().tolist() == pytest.approx([0.0, 0.5])


def test_bernoulli_refuses_bits_for_greys_with_the_way_out() -> None:
    Bernoulli().check_levels(torch.tensor([[[[-1.0, 1.0]]]]))
    with pytest.raises(ConfigError, match="likelihood=logistic"):
        Bernoulli().check_levels(torch.tensor([[[[-1.0, 0.5]]]]))


def test_means_stay_in_the_pixel_range() -> None:
    for name, scale in (("gaussian", "learned"), ("logistic", "pixel"), ("bernoulli", "learned")):
        likelihood = build_likelihood(name, scale)  # type: ignore[arg-type]
        output = 5 * torch.randn(2, 3 * likelihood.parameters_per_channel, 4, 4)
        mean = likelihood.mean(output)
        assert mean.shape == (2, 3, 4, 4)
        assert mean.abs().max() <= 1


def test_a_number_fixes_the_scale() -> None:
    likelihood = build_likelihood("gaussian", 0.25)
    assert isinstance(likelihood, LocationScale)
    scale = likelihood.scale()
    assert scale is not None
    assert scale.item() == 0.25
    assert not list(likelihood.parameters())
