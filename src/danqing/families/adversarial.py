"""Adversarial losses and the penalties that keep a discriminator smooth.

Logits `[n]` are high where the discriminator takes an image for real; D(x) are those of real images, D(G)
those of generated ones, and softplus(-a) = -log σ(a).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"]
Discriminate = Callable[[Tensor], Tensor]
LARGEST_RATIO = 1e4
"""Of two gradients whose lengths are compared."""


class Adversarial(NamedTuple):
    """The losses of both networks, which are minimised.

    Each takes the logits of real and of generated images. pairs: whether the generator's loss needs the
    logits of real images.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    pairs: bool = False


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's cross-entropy.

    -E log σ(D(x)) - E log(1 - σ(D(G))) (Goodfellow et al. 2014, eq. 1).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the generator's minimax loss.

    E log(1 - σ(D(G))) (Goodfellow et al. 2014, eq. 1). Its gradient vanishes where the discriminator is sure.
    """
    return -F.softplus(fake).mean()


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the generator's non-saturating loss.

    -E log σ(D(G)) (Goodfellow et al. 2014, section 3).
    """
    return F.softplus(-fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's least-squares loss.

    ½ E (D(x) - 1)² + ½ E D(G)² (Mao et al. 2017, eq. 9).
    """
    return (real - 1).square().mean() / 2 + fake.square().mean() / 2


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the generator's least-squares loss.

    ½ E (D(G) - 1)² (Mao et al. 2017, eq. 9).
    """
    return (fake - 1).square().mean() / 2


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's hinge loss.

    E max(0, 1 - D(x)) + E max(0, 1 + D(G)) (Lim and Ye 2017).
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def critic(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the critic's loss, E D(G) - E D(x).

    Arjovsky et al. 2017, eq. 2.
    """
    return fake.mean() - real.mean()


def critic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the loss of the critic's generator, -E D(G)."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's relativistic loss, pair by pair.

    -E log σ(D(x) - D(G)) (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2).
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the generator's relativistic loss, pair by pair.

    -E log σ(D(G) - D(x)).
    """
    return F.softplus(real - fake).mean()


LOSSES: dict[Loss, Adversarial] = {
    "minimax": Adversarial(cross_entropy, minimax_generator),
    "non_saturating": Adversarial(cross_entropy, non_saturating_generator),
    "least_squares": Adversarial(least_squares_discriminator, least_squares_generator),
    "hinge": Adversarial(hinge_discriminator, critic_generator),
    "wasserstein": Adversarial(critic, critic_generator),
    "relativistic": Adversarial(relativistic_discriminator, relativistic_generator, pairs=True),
}


def squared_gradients(discriminate: Discriminate, images: Tensor) -> Tensor:
    """Compute ½ |∇D(x)|² at each image, `[n]`.

    The mean is R1 where images are real, R2 where they are generated (Mescheder et al. 2018, equations 9 and
    10). The caller applies the weight γ.
    """
    return _gradients(discriminate, images).square().sum(1) / 2


def gradient_ratio(likeness: Tensor, verdict: Tensor, weights: Tensor) -> Tensor:
    """Compute the ratio of the lengths of two terms' gradients.

    Esser et al. 2021, equation 7. Times this, a verdict changes the weights as much as the likeness does.
    weights: of the last layer.
    """
    terms = likeness, verdict
    lengths = [torch.autograd.grad(term, weights, retain_graph=True)[0].float().norm() for term in terms]
    ratio: Tensor = lengths[0] / (lengths[1] + 1e-6)
    return ratio.clamp(0, LARGEST_RATIO).detach()


def scaled_gamma(gamma: float, pixels: int, batch_size: int) -> float:
    """Return the weight γ of R1 and R2 for a size.

    γ is proportional to the pixels and to 1 / batch size (Karras et al. 2020, StyleGAN2-ADA, whose code
    computes 0.0002 · pixels / batch size).
    gamma: its value for 32×32 pixels and batches of 32. batch_size: 0 if it is not known, which counts as 32.
    """
    return gamma * (pixels / 32**2) * (32 / (batch_size or 32))


def gradient_penalty(discriminate: Discriminate, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """Compute the gradient penalty between pairs of images.

    E (|∇D(x̂)| - 1)² at random points x̂ between a real and a generated image (Gulrajani et al. 2017, eq. 3).
    """
    share = torch.rand((len(real), 1, 1, 1), generator=rng, device=real.device)
    norms: Tensor = _gradients(discriminate, torch.lerp(real, fake, share)).norm(dim=1)
    return (norms - 1).square().mean()


def _gradients(discriminate: Discriminate, images: Tensor) -> Tensor:
    """Compute ∇D at each image, `[n, c·h·w]`, with a graph of its own: penalties are differentiated again."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    flat: Tensor = gradients.flatten(1)
    return flat
