"""Adversarial losses and penalties against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from danqing.families.adversarial import LOSSES, gradient_penalty, scaled_gamma, squared_gradients

logits = st.lists(st.floats(-20, 20), min_size=1, max_size=8).map(torch.tensor)


@settings(deadline=None, max_examples=30)
@given(real=logits, fake=logits)
def test_cross_entropy_is_binary_cross_entropy(real: Tensor, fake: Tensor) -> None:
    bce = nn.functional.binary_cross_entropy_with_logits
    loss = LOSSES["minimax"].discriminator(real, fake)
    torch.testing.assert_close(loss, bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake)))
    assert LOSSES["minimax"].generator(real, fake) <= 0
    torch.testing.assert_close(
        LOSSES["non_saturating"].generator(real, fake), bce(fake, torch.ones_like(fake))
    )


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        ("minimax", 2 * math.log(2), -math.log(2)),
        ("non_saturating", 2 * math.log(2), math.log(2)),
        ("least_squares", 0.5, 0.5),
        ("hinge", 2.0, 0.0),
        ("wasserstein", 0.0, 0.0),
        ("relativistic", math.log(2), math.log(2)),
    ],
)
def test_values_where_the_discriminator_knows_nothing(
    loss: str, discriminator: float, generator: float
) -> None:
    zeros = torch.zeros(4)
    assert LOSSES[loss].discriminator(zeros, zeros).item() == pytest.approx(discriminator)
    assert LOSSES[loss].generator(zeros, zeros).item() == pytest.approx(generator)


@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "least_squares"])
def test_optimal_discriminator(loss: str) -> None:
    """Where p real and q generated images fall on one point, D* = p / (p + q) there."""
    p, q, zero = 3, 1, torch.zeros(1)
    both = LOSSES[loss].discriminator
    best = p / (p + q) if loss == "least_squares" else math.log(p / q)
    logit = torch.tensor([best - 0.1, best, best + 0.1], requires_grad=True)
    for value in logit:
        # each loss is a sum of a term in the real logits and one in the fake logits: weigh them apart
        real, fake = both(value[None], zero), both(zero, value[None])
        (p * real + q * fake).backward(retain_graph=True)
    assert logit.grad is not None
    below, at, above = logit.grad
    assert below < 0 < above
    assert at.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_pull_the_right_way(loss: str) -> None:
    real, fake = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    LOSSES[loss].discriminator(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()  # descending raises the logits of real images
    assert (fake.grad >= 0).all()
    fake.grad.zero_()
    LOSSES[loss].generator(real.detach(), fake).backward()
    assert (fake.grad < 0).all()


def test_gradient_penalty_of_a_linear_critic() -> None:
    critic = nn.Linear(12, 1)
    real, fake = torch.randn(7, 3, 2, 2), torch.randn(7, 3, 2, 2)
    penalty = gradient_penalty(lambda x: critic(x.flatten(1)).squeeze(1), real, fake, torch.Generator())
    norm = critic.weight.norm()
    torch.testing.assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad, 2 * (norm - 1) * critic.weight / norm)


def test_squared_gradients_of_a_linear_critic() -> None:
    """D(x) = w·x has the gradient w everywhere: ½ |w|² at each image, with the gradient w in w."""
    critic = nn.Linear(12, 1)
    images = torch.randn(7, 3, 2, 2)
    penalties = squared_gradients(lambda x: critic(x.flatten(1)).squeeze(1), images)
    torch.testing.assert_close(penalties, (critic.weight.square().sum() / 2).expand(7))
    penalties.mean().backward()
    torch.testing.assert_close(critic.weight.grad, critic.weight)
    assert critic.bias.grad is None or not critic.bias.grad.any()


def test_gamma_grows_with_the_pixels_and_falls_with_the_batch() -> None:
    assert scaled_gamma(0.1, 32 * 32, 32) == pytest.approx(0.1)
    assert scaled_gamma(0.1, 64 * 64, 32) == pytest.approx(0.4)
    assert scaled_gamma(0.1, 64 * 64, 128) == pytest.approx(0.1)
    assert scaled_gamma(0.1, 64 * 32, 0) == pytest.approx(0.2)


def test_r1_of_a_quadratic() -> None:
    """D(x) = a/2 |x|² has the gradient a x, and ½ a² |x|² as its penalty."""
    a = torch.tensor(1.5, requires_grad=True)
    images = torch.randn(5, 1, 4, 3)
    penalty = squared_gradients(lambda x: a / 2 * x.square().flatten(1).sum(1), images).mean()
    mean = images.flatten(1).square().sum(1).mean()
    torch.testing.assert_close(penalty, a**2 / 2 * mean)
    penalty.backward()
    torch.testing.assert_close(a.grad, a * mean)


def test_penalties_in_bfloat16_point_the_same_way() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Softplus(), nn.Conv2d(16, 16, 3), nn.Softplus())
    images = torch.randn(4, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            penalty = squared_gradients(lambda x: network(x).float().sum((1, 2, 3)), images).mean()
        parameters = list(network.parameters())[::2]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(penalty, parameters)]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
