"""What autoencoders share: a perceptual and an adversarial term, which make their images sharp.

Where latents leave something open, the squared error asks for the mean of the possibilities, which is
blurred. The perceptual term compares features of another network (Zhang et al. 2018). The adversarial term is
the verdict of a discriminator on patches (Esser et al. 2021).
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.families.adversarial import LOSSES, Loss, squared_gradients
from danqing.families.base import Batch, Family, FamilyConfig, Losses, Phase
from danqing.nets.patchgan import PatchDiscriminator

PHASE, DISCRIMINATOR = "autoencoder", "discriminator"
_LARGEST_RATIO = 1e4


class AutoencoderConfig(FamilyConfig):
    """Settings of the terms beside the likeness of pixels.

    perceptual: the weight of the distance in the features of `perceptual_network`.
    adversarial: the weight of the adversarial loss, 0 for none; where `adversarial_adaptive`, relative to the
        gradient of the other terms. The discriminator starts to learn after `adversarial_start_images`, and
        its weight rises over `adversarial_warmup_images` more, so that it has learned something before it
        counts.
    """

    perceptual: float = Field(0.0, ge=0)
    perceptual_network: str = "efficientnet-lite0"
    adversarial: float = Field(0.0, ge=0)
    adversarial_loss: Loss = "hinge"
    adversarial_adaptive: bool = True
    adversarial_start_images: int = Field(50_000, ge=0)
    adversarial_warmup_images: int = Field(25_000, ge=0)
    discriminator_features: int = Field(64, ge=4, le=1024)
    discriminator_layers: int = Field(2, ge=1, le=6)
    discriminator_learning_rate_scale: float = Field(1.0, gt=0)
    r1: float = Field(0.0, ge=0)


class Autoencoder(Family):
    """A family that encodes and decodes images, perhaps with a discriminator."""

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)

    config: AutoencoderConfig
    decoder: nn.Module
    discriminator: PatchDiscriminator | None

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self._images = 0
        self._stages: Callable[[Tensor], Sequence[Tensor]] | None = None

    @property
    def perceptual_network(self) -> str:
        """Return the network whose features are compared, "" for none."""
        return self.config.perceptual_network if self.config.perceptual else ""

    def perceive(self, stages: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """Take the function that turns images into that network's feature maps."""
        self._stages = stages

    def on_progress(self, images: int) -> None:
        self._images = images

    @property
    def adversarial_weight(self) -> float:
        """Return the weight of the adversarial loss so far."""
        config, since = self.config, self._images - self.config.adversarial_start_images
        if since < 0:
            return 0.0
        warmup = config.adversarial_warmup_images
        return config.adversarial * (min(1.0, since / warmup) if warmup else 1.0)

    def rebuilt(self, batch: Batch) -> Tensor:
        """Return the decoded images of a batch, for the discriminator, `[n, c, h, w]`."""
        raise NotImplementedError

    def phases_of(self, *modules: str) -> tuple[Phase, ...]:
        """Return the phases, of which the first trains these children."""
        learning = (Phase(PHASE, modules),)
        scale = self.config.discriminator_learning_rate_scale
        judging = (Phase(DISCRIMINATOR, ("discriminator",), learning_rate_scale=scale),)
        return learning + judging if self.config.adversarial else learning

    def build_discriminator(self) -> PatchDiscriminator | None:
        """Build the discriminator with fresh weights, after all other children."""
        config = self.config
        if not config.adversarial:
            return None
        return PatchDiscriminator(
            config.channels, features=config.discriminator_features, layers=config.discriminator_layers
        )

    def with_other_terms(
        self, likeness: Tensor, decoded: Tensor, images: Tensor, logged: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the likeness with the perceptual term, and the adversarial term.

        likeness: what is minimised of the pixels, a scalar. decoded: the decoded images.
        logged: gets the values of both terms.
        """
        if self.config.perceptual:
            logged["perceptual"] = self._perceptual(decoded, images)
            likeness = likeness + self.config.perceptual * logged["perceptual"]
        if not self.adversarial_weight:
            return likeness, likeness.new_zeros(())
        verdict = self._verdict(decoded, images)
        ratio = self._gradient_ratio(likeness, verdict) if self.config.adversarial_adaptive else 1.0
        weight = self.adversarial_weight * ratio
        logged |= {"adversarial": verdict, "adversarial_weight": torch.as_tensor(weight)}
        return likeness, weight * verdict

    def _perceptual(self, decoded: Tensor, images: Tensor) -> Tensor:
        """The mean squared distance of feature maps, each place's scaled to length 1 (Zhang et al. 2018,
        equation 1, with all channels weighing the same).
        """
        assert self._stages is not None, "perceive() has not been called"
        with torch.no_grad():
            wanted = [F.normalize(stage.float(), dim=1) for stage in self._stages(images)]
        found = [F.normalize(stage.float(), dim=1) for stage in self._stages(decoded)]
        parts = [(a - b).square().sum(1).mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()

    def _verdict(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Compute the generator's side of the adversarial loss."""
        assert self.discriminator is not None
        kind = LOSSES[self.config.adversarial_loss]
        fake = self.discriminator(decoded)
        real = self.discriminator(images).detach() if kind.pairs else fake
        return kind.generator(real, fake)

    def _gradient_ratio(self, likeness: Tensor, verdict: Tensor) -> Tensor:
        """Compute the ratio of the lengths of both gradients at the decoder's last layer.

        Esser et al. 2021, equation 7.
        """
        last = self.decoder.last
        assert isinstance(last, nn.Conv2d | nn.Linear)
        lengths = [
            torch.autograd.grad(term, last.weight, retain_graph=True)[0].float().norm()
            for term in (likeness, verdict)
        ]
        ratio: Tensor = lengths[0] / (lengths[1] + 1e-6)
        return ratio.clamp(0, _LARGEST_RATIO).detach()

    def discriminator_loss(self, batch: Batch) -> Losses:
        """Compute the loss of the discriminator, which is 0 before it starts."""
        assert self.discriminator is not None
        if self._images < self.config.adversarial_start_images:  # no gradient: it stays as it is
            return Losses(0.0 * self.discriminator.last.bias.sum())  # type: ignore[union-attr]
        images = batch.images
        with torch.no_grad():
            decoded = self.rebuilt(batch).float()
        real, fake = self.discriminator(torch.cat([images, decoded])).chunk(2)
        loss = LOSSES[self.config.adversarial_loss].discriminator(real, fake)
        logged = {"verdict": loss, "wins": (real > fake).float().mean()}
        if self.config.r1:
            logged["r1"] = squared_gradients(self.discriminator, images).mean()
            loss = loss + self.config.r1 * logged["r1"]
        return Losses(loss, {name: value.detach() for name, value in logged.items()})
