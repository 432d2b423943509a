"""The likelihood of a flow, against Gaussian data whose likelihood is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from danqing.families.likelihoods import build_likelihood
from danqing.families.ode_likelihood import END, bits_per_dim, log_density, trace_by_signs

MEAN = 0.2
DEVIATIONS = torch.tensor([[[0.001, 0.05], [0.3, 1.0]]], dtype=torch.float64)
"""Of an image `[1, 2, 2]`: from a pixel that is always the same to one of all values."""


def of_gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of independent Gaussian pixels, `[n, 1, 2, 2]`."""
    t = t[:, None, None, None]
    variance = (t * DEVIATIONS) ** 2 + (1 - t) ** 2
    return MEAN + (t * DEVIATIONS**2 - (1 - t)) / variance * (x - t * MEAN)


AT_END = ((END * DEVIATIONS) ** 2 + (1 - END) ** 2).sqrt()


def drawn(n: int = 6) -> Tensor:
    """Points at time END."""
    rng = torch.Generator().manual_seed(0)
    return END * MEAN + AT_END * torch.randn(n, 1, 2, 2, generator=rng, dtype=torch.float64)


def known_density(x: Tensor) -> Tensor:
    return torch.distributions.Normal(END * MEAN, AT_END).log_prob(x).flatten(1).sum(1)


def exact_trace(slope: Tensor, x: Tensor) -> Tensor:
    """div v, by one gradient for each dimension."""
    total = torch.zeros(len(x), dtype=x.dtype)
    for direction in torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:]):
        (product,) = torch.autograd.grad(slope, x, direction.expand_as(x), retain_graph=True)
        total += (product * direction).flatten(1).sum(1)
    return total


@pytest.mark.parametrize(("sampler", "bits"), [("midpoint", 0.001), ("heun", 0.005), ("adaptive", 0.003)])
def test_the_density_of_gaussian_data_is_the_known_one(sampler: str, bits: float) -> None:
    found = log_density(of_gaussian, drawn(), exact_trace, sampler=sampler, tolerance=1e-4)
    assert float((found - known_density(drawn())).abs().max()) / (4 * math.log(2)) < bits


def test_the_error_falls_with_the_square_of_the_steps() -> None:
    coarse, fine = (
        float((log_density(of_gaussian, drawn(), exact_trace, steps=s) - known_density(drawn())).abs().max())
        for s in (32, 64)
    )
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.25)


class Correlated(nn.Module):
    """The velocity of Gaussian data with a dense covariance, so that one draw of signs is not exact."""

    def __init__(self) -> None:
        super().__init__()
        root = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2
        self.covariance = nn.Parameter(root @ root.T)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None, None]
        unit = torch.eye(4, dtype=x.dtype)
        between = t * self.covariance - (1 - t) * unit  # Cov(x − ε, x_t)
        variance = t**2 * self.covariance + (1 - t) ** 2 * unit
        return (between @ torch.linalg.solve(variance, x.reshape(-1, 4, 1))).reshape(x.shape)

    def density(self, x: Tensor) -> Tensor:
        covariance = END**2 * self.covariance.detach() + (1 - END) ** 2 * torch.eye(4, dtype=x.dtype)
        return torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(
            x.reshape(-1, 4)
        )


def test_signs_give_the_trace_on_average() -> None:
    model, x = Correlated(), drawn(1)
    rng, count = torch.Generator().manual_seed(1), 300
    signs = torch.randint(0, 2, (count, 1, 2, 2), generator=rng).double() * 2 - 1
    found = log_density(model, x.expand(count, -1, -1, -1), trace_by_signs(signs))
    assert float(found.std()) > 0.1, "this Jacobian is not diagonal"
    certain = float(found.std()) / count**0.5
    assert float(found.mean()) == pytest.approx(float(model.density(x)), abs=4 * certain + 0.01)
    assert model.covariance.grad is None


LEVELS = torch.randint(60, 200, (32, 3, 8, 8), generator=torch.Generator().manual_seed(2)) / 127.5 - 1


def of_noise(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of independent pixels of deviation 0.3."""
    t = t[:, None, None, None]
    return (t * 0.09 - (1 - t)) / (t**2 * 0.09 + (1 - t) ** 2) * x


def test_bits_per_dim_are_those_of_a_discretised_gaussian() -> None:
    found = bits_per_dim(of_noise, LEVELS, torch.Generator().manual_seed(0), samples=2)
    exact = -build_likelihood("gaussian", 0.3).log_prob(torch.zeros_like(LEVELS), LEVELS)
    exact = exact / (LEVELS[0].numel() * math.log(2))
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).mean()) < 0.05, "a bound, and a tight one"
    assert float((found - exact).abs().max()) < 0.2
    again = bits_per_dim(of_noise, LEVELS, torch.Generator().manual_seed(0), samples=2)
    assert torch.equal(found, again)


def test_a_network_that_is_not_exact_near_the_image_costs_little() -> None:
    error = 0.01 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5))

    def inexact(x: Tensor, t: Tensor) -> Tensor:
        return of_noise(x, t) + error / (1 - t)[:, None, None, None]  # the predicted image is off by `error`

    plain, found = (
        bits_per_dim(velocity, LEVELS, torch.Generator().manual_seed(0)) for velocity in (of_noise, inexact)
    )
    assert 0 < float((found - plain).mean()) < 0.1


def test_the_likelihood_of_an_image_does_not_depend_on_its_batch() -> None:
    x, signs = drawn(16).float(), (drawn(16) > MEAN).float() * 2 - 1

    def velocity(images: Tensor, t: Tensor) -> Tensor:
        pairs = zip(images, t, strict=True)
        return torch.stack([torch.tanh(2 * image.flip(1)) * moment - image for image, moment in pairs])

    for sampler in ("midpoint", "adaptive"):
        together = log_density(velocity, x, trace_by_signs(signs), sampler=sampler, steps=8)
        alone = log_density(velocity, x[9:10], trace_by_signs(signs[9:10]), sampler=sampler, steps=8)
        assert torch.equal(together[9:10], alone)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_flow_where_the_caller_turned_them_off(mode: type) -> None:
    model = Correlated().float()
    plain = bits_per_dim(model, drawn().float(), torch.Generator().manual_seed(4), steps=4)
    with mode():
        found = bits_per_dim(model, drawn().float(), torch.Generator().manual_seed(4), steps=4)
    assert torch.equal(found, plain)
    assert not found.requires_grad
