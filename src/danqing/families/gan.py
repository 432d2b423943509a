"""Generative adversarial networks: a generator makes images, a discriminator tells them from real ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from danqing.errors import ConfigError
from danqing.families.adversarial import LOSSES, Loss, gradient_penalty, squared_gradients
from danqing.families.base import Alarm, Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.nets.diffaugment import Augmentation, augment
from danqing.nets.gan_pairs import GANShape, Net, build_discriminator, build_generator
from danqing.options import check
from danqing.randomness import normal


class GANConfig(FamilyConfig):
    """Settings of the networks, their losses and the discriminator's penalties."""

    display_name: ClassVar[str] = "GAN"

    family: Literal["gan"] = "gan"
    net: Net = "dcgan"
    latents: int = Field(128, ge=1, le=4096)
    generator_features: int = Field(64, ge=4, le=1024)
    discriminator_features: int = Field(64, ge=4, le=1024)
    batch_norm: bool = True
    """Batch norm in the discriminator of `dcgan`."""
    spectral_norm: bool = False
    """Hold every layer of the discriminator to a Lipschitz constant of one (Miyato et al. 2018)."""

    loss: Loss = "non_saturating"
    discriminator_steps: int = Field(1, ge=1, le=100)
    generator_learning_rate_scale: float = Field(1.0, gt=0)
    discriminator_learning_rate_scale: float = Field(1.0, gt=0)
    r1: float = Field(0.0, ge=0)
    r2: float = Field(0.0, ge=0)
    gradient_penalty: float = Field(0.0, ge=0)
    penalty_fraction: float = Field(1.0, gt=0, le=1)
    """The share of each batch on which the penalties are computed: less is faster and noisier."""
    diffaugment: tuple[Augmentation, ...] = ()
    """Random changes to all that the discriminator sees, which keep it from learning a small set by heart."""

    @property
    def reads_attributes(self) -> bool:
        return self.conditional

    @model_validator(mode="after")
    def _penalty_is_per_image(self) -> Self:  # Gulrajani et al. 2017, section 4
        if self.gradient_penalty and self.batch_norm and self.net == "dcgan":
            raise ValueError("gradient_penalty is per image, which batch norm mixes: set batch_norm=false")
        return self


class GAN(Family):
    """A generator and a discriminator, which are trained in turns.

    Sampling needs the generator alone.
    """

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)
    advice_on_collapse: ClassVar[str] = "raise r1 and r2, or lower optimizer.learning_rate"
    config: GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.adversarial = LOSSES[config.loss]
        labels = len(config.labels) if config.conditional else 0
        shape = GANShape(config.height, config.width, config.channels, labels, config.attributes)
        self.generator = build_generator(
            config.net, shape, latents=config.latents, features=config.generator_features
        )
        self.discriminator = build_discriminator(
            config.net, shape, features=config.discriminator_features, batch_norm=config.batch_norm
        )
        if config.spectral_norm:
            for module in list(self.discriminator.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                    spectral_norm(module)

    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        return (
            Phase(
                "discriminator",
                ("discriminator",),
                repeats=config.discriminator_steps,
                learning_rate_scale=config.discriminator_learning_rate_scale,
            ),
            Phase("generator", ("generator",), learning_rate_scale=config.generator_learning_rate_scale),
        )

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        condition = batch.condition
        latents = torch.randn((len(batch), self.config.latents), generator=rng, device=batch.images.device)
        if phase.name == "discriminator":
            return self._discriminator_loss(batch.images, latents, condition, rng)
        return self._generator_loss(batch.images, latents, condition, rng)

    def sample(
        self, condition: Condition, *, seeds: Sequence[int], truncation: float = 1.0, **options: Any
    ) -> Tensor:
        """Sample one image per seed.

        truncation: scales the latents, in [0, 1]; lower is less varied.
        """
        if options:
            raise ConfigError(
                f"A GAN has no sampling option {', '.join(options)}: it takes truncation alone."
            )
        check(truncation=truncation)
        device = next(self.generator.parameters()).device
        latents = normal(seeds, (self.config.latents,), device=device) * truncation
        images: Tensor = self.generator(latents, condition)
        return images

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        if self.config.loss == "wasserstein" or logged.get("discriminator/wins", 0) < 0.995:
            return []
        advice = f"raise r1 (it is {self.config.r1:g})"
        if not self.config.diffaugment:
            advice += ' or set diffaugment=["colour","translation"]'
        text = (
            f"The discriminator has won: it tells {logged['discriminator/wins']:.1%} of the pairs apart, "
            f"so that the generator learns no more; {advice}, or lower discriminator_learning_rate_scale."
        )
        return [Alarm("discriminator won", text)]

    def _discriminator_loss(
        self, real: Tensor, latents: Tensor, condition: Condition, rng: torch.Generator
    ) -> Losses:
        with torch.no_grad():
            fake = self.generator(latents, condition)
        variety = fake.std(0, correction=0).mean() / real.std(0, correction=0).mean().clamp_min(1e-6)
        real, fake = (augment(images, self.config.diffaugment, rng) for images in (real, fake))
        real_logits, fake_logits = self._logits(real, fake, condition)
        loss = self.adversarial.discriminator(real_logits, fake_logits)
        penalties = self._penalties(real, fake, condition, rng)
        total = loss + sum(getattr(self.config, name) * value for name, value in penalties.items())
        logged = {
            "loss": loss,
            "wins": (real_logits > fake_logits).float().mean(),
            "real_logits": real_logits.mean(),
            "fake_logits": fake_logits.mean(),
            "variety": variety,
            **penalties,
        }
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def _generator_loss(
        self, real: Tensor, latents: Tensor, condition: Condition, rng: torch.Generator
    ) -> Losses:
        fake = augment(self.generator(latents, condition), self.config.diffaugment, rng)
        fake_logits = self.discriminator(fake, condition)
        real_logits = fake_logits
        if self.adversarial.pairs:
            with torch.no_grad():
                real_logits = self.discriminator(augment(real, self.config.diffaugment, rng), condition)
        total = self.adversarial.generator(real_logits, fake_logits)
        return Losses(total, {"loss": total.detach()})

    def _logits(self, real: Tensor, fake: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Compute the logits of both; in one pass, which is faster, unless batch norm would mix their
        statistics.
        """
        if self.config.net == "dcgan" and self.config.batch_norm:
            return self.discriminator(real, condition), self.discriminator(fake, condition)
        both = condition[[*range(len(real))] * 2]
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), both).chunk(2)
        return real_logits, fake_logits

    def _penalties(
        self, real: Tensor, fake: Tensor, condition: Condition, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the penalties that have a weight, not yet weighted, by the names of their weights."""
        config, few = self.config, max(1, round(len(real) * self.config.penalty_fraction))
        asked = {name: images[:few] for name, images in (("r1", real), ("r2", fake)) if getattr(config, name)}
        penalties: dict[str, Tensor] = {}
        if asked:
            discriminate = self._under(condition, few, len(asked))
            values = squared_gradients(discriminate, torch.cat(list(asked.values()))).chunk(len(asked))
            penalties |= {name: value.mean() for name, value in zip(asked, values, strict=True)}
        if config.gradient_penalty:
            discriminate = self._under(condition, few, 1)
            penalties["gradient_penalty"] = gradient_penalty(discriminate, real[:few], fake[:few], rng)
        return penalties

    def _under(self, condition: Condition, count: int, copies: int) -> Callable[[Tensor], Tensor]:
        """Return the discriminator under the first `count` conditions, repeated, as a function of images."""
        repeated = condition[[*range(count)] * copies]

        def discriminate(images: Tensor) -> Tensor:
            logits: Tensor = self.discriminator(images, repeated)
            return logits

        return discriminate
