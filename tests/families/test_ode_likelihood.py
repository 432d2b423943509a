"""The likelihood of a flow, against Gaussian data whose likelihood is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from danqing.families.likelihoods import build_likelihood
from danqing.families.ode_likelihood import END, bits_per_dim, exact_trace, log_density, trace_by_signs

MEAN = 0.2
DEVIATIONS = torch.tensor([[[0.001, 0.05], [0.3, 1.0]]], dtype=torch.float64)
"""Of an image `[1, 2, 2]`: from a pixel that is always the same to one of all values."""
BLUR = ((1 - END) / END) ** 2


def of_gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of independent Gaussian pixels, `[n, 1, 2, 2]`."""
    t = t[:, None, None, None]
    variance = (t * DEVIATIONS) ** 2 + (1 - t) ** 2
    return MEAN + (t * DEVIATIONS**2 - (1 - t)) / variance * (x - t * MEAN)


def drawn(n: int = 6) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return MEAN + DEVIATIONS * torch.randn(n, 1, 2, 2, generator=rng, dtype=torch.float64)


def known_density(x: Tensor) -> Tensor:
    normal = torch.distributions.Normal(MEAN, (DEVIATIONS**2 + BLUR).sqrt())
    return normal.log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize(("sampler", "bits"), [("midpoint", 0.003), ("heun", 0.01), ("adaptive", 0.003)])
def test_the_density_of_gaussian_data_is_the_known_one(sampler: str, bits: float) -> None:
    found = log_density(of_gaussian, drawn(), exact_trace, sampler=sampler)
    assert float((found - known_density(drawn())).abs().max()) / (4 * math.log(2)) < bits


def test_the_error_falls_with_the_square_of_the_steps() -> None:
    coarse, fine = (
        float((log_density(of_gaussian, drawn(), exact_trace, steps=s) - known_density(drawn())).abs().max())
        for s in (64, 128)
    )
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)


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
        covariance = self.covariance.detach() + BLUR * torch.eye(4, dtype=x.dtype)
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


def test_bits_per_dim_are_those_of_a_discretised_gaussian() -> None:
    levels = (2 * torch.randint(60, 200, (64, 3, 4, 4), generator=torch.Generator().manual_seed(2)) / 255) - 1

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None, None, None]
        return (t * 0.09 - (1 - t)) / (t**2 * 0.09 + (1 - t) ** 2) * x

    found = bits_per_dim(velocity, levels, torch.Generator().manual_seed(0), samples=2)
    exact = -build_likelihood("gaussian", 0.3).log_prob(torch.zeros_like(levels), levels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact / (48 * math.log(2)), atol=0.01, rtol=0)
    again = bits_per_dim(velocity, levels, torch.Generator().manual_seed(0), samples=2)
    assert torch.equal(found, again)


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
