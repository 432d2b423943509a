"""The adversarial term of families that learn the likeness of pixels first.

A discriminator judges patches (Isola et al. 2017), and its verdict is added to a loss that compares pixels
(Esser et al. 2021). The family says when it begins.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from danqing.families.adversarial import LOSSES, Loss, gradient_ratio, squared_gradients
from danqing.families.base import Family, FamilyConfig, Losses, Phase
from danqing.nets.patchgan import PatchDiscriminator

DISCRIMINATOR = "discriminator"


class PatchVerdictConfig(FamilyConfig):
    """Settings of the adversarial term.

    adversarial: its weight, 0 for none; where `adversarial_adaptive`, relative to the gradient of the other
        terms.
    """

    adversarial: float = Field(0.0, ge=0)
    adversarial_loss: Loss = "hinge"
    adversarial_adaptive: bool = True
    discriminator_features: int = Field(64, ge=4, le=1024)
    discriminator_layers: int = Field(2, ge=1, le=6)
    discriminator_learning_rate_scale: float = Field(1.0, gt=0)
    r1: float = Field(0.0, ge=0)


class HasPatchVerdict(Family):
    """A family whose loss may contain a discriminator's verdict on patches."""

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)

    config: PatchVerdictConfig
    discriminator: PatchDiscriminator | None

    @property
    def last_layer(self) -> nn.Module:
        """Return the layer that makes pixels, at which gradients are compared."""
        raise NotImplementedError

    def phases_with(self, learning: Phase) -> tuple[Phase, ...]:
        """Return the phase that learns and, if there is one, the discriminator's."""
        scale = self.config.discriminator_learning_rate_scale
        judging = (Phase(DISCRIMINATOR, ("discriminator",), learning_rate_scale=scale),)
        return (learning, *judging) if self.config.adversarial else (learning,)

    def build_discriminator(self, channels: int) -> PatchDiscriminator | None:
        """Build the discriminator with fresh weights, after all other children.

        channels: of what it judges.
        """
        config = self.config
        if not config.adversarial:
            return None
        return PatchDiscriminator(
            channels, features=config.discriminator_features, layers=config.discriminator_layers
        )

    def verdict_on(self, made: Tensor, real: Tensor) -> Tensor:
        """Compute the generator's side of the adversarial loss."""
        assert self.discriminator is not None
        kind = LOSSES[self.config.adversarial_loss]
        fake = self.discriminator(made)
        return kind.generator(self.discriminator(real).detach() if kind.pairs else fake, fake)

    def verdict_weight(self, likeness: Tensor, verdict: Tensor, weight: float) -> Tensor:
        """Return the weight of a verdict beside the rest of the loss."""
        if not self.config.adversarial_adaptive:
            return torch.as_tensor(weight)
        last = self.last_layer
        assert isinstance(last, nn.Conv2d | nn.Linear)
        return weight * gradient_ratio(likeness, verdict, last.weight)

    def resting_loss(self) -> Losses:
        """Return the loss of a discriminator that has not begun.

        Its gradient is zero, so that the discriminator stays as it is.
        """
        assert self.discriminator is not None
        return Losses(0.0 * self.discriminator.last.bias.sum())  # type: ignore[union-attr]

    def discriminator_loss(self, made: Tensor, real: Tensor) -> Losses:
        """Compute the loss of the discriminator.

        made, real: images `[n, c, h, w]`; the made ones have no gradients.
        """
        assert self.discriminator is not None
        real_logits, fake_logits = self.discriminator(torch.cat([real, made])).chunk(2)
        loss = LOSSES[self.config.adversarial_loss].discriminator(real_logits, fake_logits)
        logged = {"verdict": loss, "wins": (real_logits > fake_logits).float().mean()}
        if self.config.r1:
            logged["r1"] = squared_gradients(self.discriminator, real).mean()
            loss = loss + self.config.r1 * logged["r1"]
        return Losses(loss, {name: value.detach() for name, value in logged.items()})
