"""Generative adversarial networks: a generator paints, a discriminator learns to tell its pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from danqing.errors import ConfigError
from danqing.families.adversarial import LOSSES, Loss, gradient_penalty, squared_gradient
from danqing.families.base import Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.nets.diffaugment import Augmentation, augment
from danqing.nets.gan_pairs import Net, Shape, build_discriminator, build_generator
from danqing.randomness import normal


class GANConfig(FamilyConfig):
    """The networks, the game that they play, and what keeps the discriminator in check."""

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


class GAN(Family):
    """The generator and the discriminator take turns; painting needs the generator alone."""

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)
    config: GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.adversarial = LOSSES[config.loss]
        shape = Shape(
            config.height, config.width, config.channels, len(config.labels) if config.conditional else 0
        )
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
        label = self._label(batch.condition)
        latents = torch.randn((len(batch), self.config.latents), generator=rng, device=batch.images.device)
        if phase.name == "discriminator":
            return self._discriminator_loss(batch.images, latents, label, rng)
        return self._generator_loss(batch.images, latents, label, rng)

    def sample(
        self, condition: Condition, *, seeds: Sequence[int], truncation: float = 1.0, **options: Any
    ) -> Tensor:
        """Paint one image per seed; `truncation` in [0, 1] scales the latents: lower is less varied."""
        if options:
            raise ConfigError(
                f"A GAN has no sampling option {', '.join(options)}: it takes truncation alone."
            )
        if not 0 <= truncation <= 1:
            raise ConfigError(f"truncation must lie between 0 and 1, not {truncation}.")
        device = next(self.generator.parameters()).device
        latents = normal(seeds, (self.config.latents,), device=device) * truncation
        images: Tensor = self.generator(latents, self._label(condition))
        return images

    def alarms(self, logged: Mapping[str, float]) -> list[str]:
        if self.config.loss == "wasserstein" or logged.get("discriminator_wins", 0) < 0.995:
            return []
        mend = f"raise r1 (it is {self.config.r1:g})"
        if not self.config.diffaugment:
            mend += ' or set diffaugment=["colour","translation"]'
        return [
            f"The discriminator has won: it tells {logged['discriminator_wins']:.1%} of the pairs apart, "
            f"so that the generator learns no more; {mend}, or lower discriminator_learning_rate_scale."
        ]

    def _discriminator_loss(
        self, real: Tensor, latents: Tensor, label: Tensor | None, rng: torch.Generator
    ) -> Losses:
        config = self.config
        with torch.no_grad():
            fake = self.generator(latents, label)
        variety = fake.std(0).mean() / real.std(0).mean()
        real, fake = augment(real, config.diffaugment, rng), augment(fake, config.diffaugment, rng)
        real_logits, fake_logits = self.discriminator(real, label), self.discriminator(fake, label)
        total = self.adversarial.discriminator(real_logits, fake_logits)
        logged = {
            "discriminator_loss": total.detach(),
            "discriminator_wins": (real_logits > fake_logits).float().mean(),
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
            "variety": variety,
        }
        few = slice(max(1, round(len(real) * config.penalty_fraction)))
        few_labels = None if label is None else label[few]

        def discriminate(images: Tensor) -> Tensor:
            logits: Tensor = self.discriminator(images, few_labels)
            return logits

        penalties: dict[str, Callable[[], Tensor]] = {
            "r1": lambda: squared_gradient(discriminate, real[few]),
            "r2": lambda: squared_gradient(discriminate, fake[few]),
            "gradient_penalty": lambda: gradient_penalty(discriminate, real[few], fake[few], rng),
        }
        for name, penalty in penalties.items():
            if weight := getattr(config, name):
                value = penalty()
                logged[name] = value.detach()
                total = total + weight * value
        return Losses(total, logged)

    def _generator_loss(
        self, real: Tensor, latents: Tensor, label: Tensor | None, rng: torch.Generator
    ) -> Losses:
        fake = augment(self.generator(latents, label), self.config.diffaugment, rng)
        fake_logits = self.discriminator(fake, label)
        real_logits = fake_logits
        if self.adversarial.pairs:
            with torch.no_grad():
                real_logits = self.discriminator(augment(real, self.config.diffaugment, rng), label)
        total = self.adversarial.generator(real_logits, fake_logits)
        return Losses(total, {"generator_loss": total.detach()})

    def _label(self, condition: Condition) -> Tensor | None:
        return condition.label if self.config.conditional and self.config.labels else None
