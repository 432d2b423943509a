"""Priors: maps that invert, log-determinants against the Jacobian, densities that integrate to one."""

import math

import pytest
import torch
from torch import Tensor, nn

from danqing.data.batch import Condition
from danqing.nets.priors import FlowPrior, NormalPrior, standard_normal_log_prob


def shaken(module: nn.Module) -> nn.Module:
    """The module away from its initial identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double()


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("latents", [2, 5, 8])
def test_noise_and_latents_are_inverse_to_each_other(latents: int, labels: int) -> None:
    condition = Condition(label=torch.arange(6) % labels) if labels else None
    x = torch.randn(6, latents, dtype=torch.float64)
    for prior in (NormalPrior(latents, labels), FlowPrior(latents, labels, couplings=5, hidden=16)):
        shaken(prior)
        assert torch.allclose(prior.from_noise(prior.to_noise(x, condition)[0], condition), x, atol=1e-10)
        assert torch.allclose(prior.to_noise(prior.from_noise(x, condition), condition)[0], x, atol=1e-10)


@pytest.mark.parametrize("labels", [0, 2])
def test_log_determinant_is_that_of_the_jacobian(labels: int) -> None:
    prior = shaken(FlowPrior(5, labels, couplings=4, hidden=16))
    condition = Condition(label=torch.tensor([1])) if labels else None
    x = torch.randn(1, 5, dtype=torch.float64)

    def noise(row: Tensor) -> Tensor:
        return prior.to_noise(row[None], condition)[0][0]

    jacobian = torch.autograd.functional.jacobian(noise, x[0])
    assert prior.to_noise(x, condition)[1].item() == pytest.approx(
        torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9
    )


def test_density_of_a_flow_integrates_to_one() -> None:
    prior = shaken(FlowPrior(2, 0, couplings=3, hidden=8))
    axis = torch.linspace(-20, 20, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    total = prior.log_prob(points, None).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=5e-3)


def test_a_fresh_prior_is_the_standard_normal_for_every_label() -> None:
    x = torch.randn(4, 6)
    condition = Condition(label=torch.arange(4))
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    assert torch.allclose(standard_normal_log_prob(x), expected, atol=1e-5)
    for prior in (NormalPrior(6, 4), FlowPrior(6, 4, couplings=2, hidden=8)):
        assert torch.allclose(prior.log_prob(x, condition), expected, atol=1e-5)


def test_each_label_has_a_density_of_its_own() -> None:
    prior = NormalPrior(1, 2)
    assert prior.statistics_of_label is not None
    with torch.no_grad():
        prior.statistics_of_label.copy_(torch.tensor([[0.0, 0.0], [2.0, math.log(3.0)]]))
    value = prior.log_prob(torch.tensor([[5.0]]), Condition(label=torch.tensor([1]))).item()
    assert value == pytest.approx(-0.5 - math.log(3 * math.sqrt(2 * math.pi)))


def test_a_flow_learns_a_ring_that_no_gaussian_follows() -> None:
    torch.manual_seed(0)
    angle = torch.rand(256) * 2 * math.pi
    ring = torch.stack([angle.cos(), angle.sin()], 1) * (3 + 0.1 * torch.randn(256, 1))
    prior = FlowPrior(2, 0, couplings=6, hidden=16)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = -prior.log_prob(ring, None).mean()
        loss.backward()
        optimizer.step()
    gaussian = torch.distributions.MultivariateNormal(ring.mean(0), torch.cov(ring.T))
    assert -loss.item() > gaussian.log_prob(ring).mean().item() + 0.5
