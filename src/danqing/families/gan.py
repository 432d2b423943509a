"""Generative adversarial networks: a generator makes images, a discriminator tells them from real ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from danqing.families.abilities import Grows
from danqing.families.adversarial import LOSSES, Loss, gradient_penalty, scaled_gamma, squared_gradients
from danqing.families.base import Alarm, Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.families.latent_search import CANDIDATES, STEPS, find_latents
from danqing.families.seamless import check_one_evaluation, wrapped
from danqing.nets.diffaugment import Augmentation, augment
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_modern import LevelShape, ModernGenerator
from danqing.nets.gan_pairs import Net, build_discriminator, build_generator
from danqing.nets.gan_reconstruction import Reconstruction
from danqing.nets.layers import enlarged
from danqing.options import check, complete
from danqing.randomness import normal

FEW_IMAGES = 2000
"""Below this number of training images, "auto" settings help the discriminator."""


class GANConfig(FamilyConfig):
    """Settings of the networks, their losses and the discriminator's penalties.

    training_images, training_batch: how many images the run learns from, and how many in a step; 0 is not
        known.
    """

    display_name: ClassVar[str] = "GAN"
    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"training_images", "training_batch"}

    family: Literal["gan"] = "gan"
    net: Net = "dcgan"
    latents: int = Field(128, ge=1, le=4096)
    generator_features: int = Field(64, ge=4, le=1024)
    discriminator_features: int = Field(64, ge=4, le=1024)
    blocks: int = Field(1, ge=1, le=16)
    """Residual blocks of `modern` at each resolution."""
    expansion: float = Field(1.0, gt=0, le=8)
    """How many times as many channels there are within a block of `modern` as outside."""
    group_width: int = Field(0, ge=0, le=1024)
    """Channels in a group of the 3×3 convolutions of `modern`; 0 is dense."""
    scales: int = Field(1, ge=1, le=4)
    """At how many sizes an image is judged, each half of the one before, by a discriminator of its own."""
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
    gamma: float = Field(0.0, ge=0)
    """Weight of R1 and R2 for 32×32 pixels and batches of 32, from which those of other sizes follow."""
    final_gamma_share: float = Field(0.1, ge=0, le=1)
    """The share of `gamma` that is left after the burn-in (`schedule.burn_in`)."""
    gradient_penalty: float = Field(0.0, ge=0)
    penalty_fraction: float = Field(1.0, gt=0, le=1)
    """The share of each batch on which the penalties are computed: less is faster and noisier."""
    diffaugment: tuple[Augmentation, ...] | Literal["auto"] = "auto"
    """Random changes to all that the discriminator sees, which keep it from learning a small set by heart.

    "auto": all of them for fewer than 2,000 images, else none.
    """
    reconstruction: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of a head that must draw real images from the discriminator's features.

    "auto": 1 for fewer than 2,000 images, else 0.
    """
    training_images: int = Field(0, ge=0)
    training_batch: int = Field(0, ge=0)

    @property
    def reads_attributes(self) -> bool:
        return self.conditional

    @property
    def can_grow(self) -> bool:
        return self.net == "modern"

    @property
    def has_few_images(self) -> bool:
        """Return whether the run learns from fewer than `FEW_IMAGES` images."""
        return 0 < self.training_images < FEW_IMAGES

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Return `diffaugment`, decided."""
        if self.diffaugment == "auto":
            return get_args(Augmentation) if self.has_few_images else ()
        return self.diffaugment

    @property
    def reconstruction_weight(self) -> float:
        """Return `reconstruction`, decided."""
        if self.reconstruction == "auto":
            return 1.0 if self.has_few_images and self.net != "mlp" else 0.0
        return self.reconstruction

    @property
    def why_not_private(self) -> str:
        if self.net not in ("mlp", "modern"):
            return (
                f"Batch norm in the generator of {self.net} mixes images, so no gradient is that of one "
                "image: set net=modern or net=mlp."
            )
        if LOSSES[self.loss].pairs:
            return (
                f"With loss={self.loss} the generator too learns from real images: set loss=non_saturating, "
                "so that only the discriminator does."
            )
        if self.r1 or self.r2 or self.gamma or self.gradient_penalty or self.spectral_norm:
            return (
                "Penalties on the discriminator are not made for clipped gradients, which limit it already: "
                "set r1=0, r2=0, gamma=0, gradient_penalty=0 and spectral_norm=false."
            )
        return ""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.gamma and (self.r1 or self.r2):
            raise ValueError("gamma is the weight of R1 and R2: leave r1 and r2 at 0, or set gamma=0")
        if self.net == "mlp" and self.reconstruction_weight:
            raise ValueError("mlp cannot reconstruct images: choose another net, or set reconstruction=0")
        return self

    @model_validator(mode="after")
    def _penalty_is_per_image(self) -> Self:  # Gulrajani et al. 2017, section 4
        if self.gradient_penalty and self.batch_norm and self.net == "dcgan":
            raise ValueError("gradient_penalty is per image, which batch norm mixes: set batch_norm=false")
        return self


class GAN(Family, Grows):
    """A generator and a discriminator, which are trained in turns.

    Sampling needs the generator alone.
    """

    training_only: ClassVar[tuple[str, ...]] = ("discriminator", "reconstruction")
    lends: ClassVar[str] = "discriminator"
    advice_on_collapse: ClassVar[str] = "raise r1 and r2, or lower optimizer.learning_rate"
    config: GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.adversarial = LOSSES[config.loss]
        labels = len(config.labels) if config.conditional else 0
        shape = GANShape(config.height, config.width, config.channels, labels, config.attributes)
        levels = LevelShape(config.blocks, config.expansion, config.group_width)
        self.generator = build_generator(
            config.net, shape, latents=config.latents, features=config.generator_features, levels=levels
        )
        self.discriminator = build_discriminator(
            config.net,
            shape,
            features=config.discriminator_features,
            batch_norm=config.batch_norm,
            scales=config.scales,
            levels=levels,
        )
        self.reconstruction = (
            Reconstruction(shape, self.discriminator.map_width) if config.reconstruction_weight else None
        )
        if config.grow:
            self.register_buffer("level", torch.tensor(config.grow_levels[0]))
        self._burnt_in = 0.0
        if config.spectral_norm:
            for module in list(self.discriminator.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                    spectral_norm(module)

    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        judges = ("discriminator",) if self.reconstruction is None else ("discriminator", "reconstruction")
        return (
            Phase(
                "discriminator",
                judges,
                repeats=config.discriminator_steps,
                learning_rate_scale=config.discriminator_learning_rate_scale,
            ),
            Phase(
                "generator",
                ("generator",),
                learning_rate_scale=config.generator_learning_rate_scale,
                sees_data=self.adversarial.pairs,
            ),
        )

    def starts_at(self, name: str) -> int:
        child, _, rest = name.partition(".")
        if child != "generator" or not self.config.grow:
            return 0
        assert isinstance(self.generator, ModernGenerator)
        level = self.generator.level_of(rest)
        return next(size for size, halved in enumerate(self.config.grow_levels) if halved <= level)

    def on_burn_in(self, progress: float) -> None:
        self._burnt_in = progress

    def gamma(self, images: Tensor) -> float:
        """Return γ for images at this point of the run."""
        config = self.config
        left = 1 + self._burnt_in * (config.final_gamma_share - 1)
        return left * scaled_gamma(config.gamma, images[0, 0].numel(), config.training_batch)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        condition = batch.condition
        latents = torch.randn((len(batch), self.config.latents), generator=rng, device=batch.images.device)
        if phase.name == "discriminator":
            return self._discriminator_loss(batch.images, latents, condition, rng)
        return self._generator_loss(batch.images, latents, condition, rng)

    def sample_defaults(self) -> Mapping[str, Any]:
        return {"truncation": 1.0, **({"seamless": "none"} if self.generator.multiple else {})}

    def check_seamless(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if the generator has no seamless image of this (width, height)."""
        check_one_evaluation(self.generator, size, self.config.net, "dcgan, resnet or modern")

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Sample one image per seed.

        options: truncation scales the latents, in [0, 1], and lower is less varied; seamless, the axes along
            which opposite edges fit together, "none", "x", "y" or "both".
        """
        chosen = complete(options, self.sample_defaults(), "A GAN")
        if (seamless := chosen.get("seamless", "none")) != "none":
            self.check_seamless((self.config.width, self.config.height))
        with wrapped(seamless):
            return self._images(self._noise(seeds) * chosen["truncation"], condition)

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        num_steps: int = STEPS,
    ) -> Tensor:
        """Generate what a mask covers, by a search for latents.

        The image of these latents is most like the rest.
        num_steps: of the search for its latents, which begins at latents of the seed.
        """
        latents = self._latents_of(images, 1 - mask, condition, seeds, num_steps)
        return torch.where(mask > 0, self._images(latents, condition), images)

    def vary(
        self,
        images: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float,
        num_steps: int = STEPS,
    ) -> Tensor:
        """Generate from the images' own latents, moved towards fresh ones.

        The step, that of the preconditioned Crank-Nicolson proposal (Cotter et al. 2013), keeps the latents
        normal.
        num_steps: as of `fill`.
        """
        latents = self._latents_of(images, torch.ones_like(images[:, :1]), condition, seeds, num_steps)
        moved = math.sqrt(1 - strength**2) * latents + strength * self._noise(seeds)
        return self._images(moved, condition)

    @property
    def noise_size(self) -> int:
        """Return the number of latents."""
        return self.config.latents

    def from_noise(self, noise: Tensor, condition: Condition) -> Tensor:
        """Turn latents `[n, noise_size]` into images."""
        return self._images(noise, condition)

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """Return the latents that seeds sample, `[n, latents]`."""
        return normal(seeds, (self.config.latents,), device=next(self.generator.parameters()).device)

    def _latents_of(
        self, images: Tensor, known: Tensor, condition: Condition, seeds: Sequence[int], num_steps: int
    ) -> Tensor:
        """Search for the latents of images `[n, c, h, w]` whose pixels are `known` `[n, 1, h, w]`."""
        check(num_steps=num_steps)
        own = self._noise(seeds)
        others = normal(
            seeds, (CANDIDATES - 1, self.config.latents), purpose="candidates", device=own.device
        ).transpose(0, 1)
        candidates = torch.cat([own[None], others])
        return find_latents(
            lambda latents: self._images(latents, condition), images, known, candidates, steps=num_steps
        )

    def _images(self, latents: Tensor, condition: Condition) -> Tensor:
        """Generate images of the whole size, enlarged while the network is still growing."""
        if not self.config.grow:
            images: Tensor = self.generator(latents, condition)
            return images
        level, whole = int(self.level), (self.config.height, self.config.width)
        size = tuple(-(-side // 2**level) for side in whole)
        return enlarged(self.generator(latents, condition, size), level, whole)

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        if self.config.loss == "wasserstein" or logged.get("discriminator/wins", 0) < 0.995:
            return []
        name = "gamma" if self.config.gamma else "r1"
        advice = f"raise {name} (it is {getattr(self.config, name):g})"
        if not self.config.augmentations:
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
            fake = self._generate(latents, condition, real)
        variety = fake.std(0, correction=0).mean() / real.std(0, correction=0).mean().clamp_min(1e-6)
        real, fake = (augment(images, self.config.augmentations, rng) for images in (real, fake))
        real_logits, fake_logits, features = self._logits(real, fake, condition)
        loss = self.adversarial.discriminator(real_logits, fake_logits)
        weights = self._penalty_weights(real)
        penalties = self._penalties(weights, real, fake, condition, rng)
        if self.reconstruction is not None:
            weights["reconstruction"] = self.config.reconstruction_weight
            penalties["reconstruction"] = self.reconstruction.loss(features, real)
        total = loss + sum(weights[name] * value for name, value in penalties.items())
        logged = {
            "loss": loss,
            "wins": (real_logits > fake_logits).float().mean(),
            "real_logits": real_logits.mean(),
            "fake_logits": fake_logits.mean(),
            "variety": variety,
            **penalties,
        }
        if self.config.gamma:
            logged["gamma"] = torch.tensor(weights["r1"])
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def _generator_loss(
        self, real: Tensor, latents: Tensor, condition: Condition, rng: torch.Generator
    ) -> Losses:
        fake = augment(self._generate(latents, condition, real), self.config.augmentations, rng)
        fake_logits = self.discriminator(fake, condition)
        real_logits = fake_logits
        if self.adversarial.pairs:
            with torch.no_grad():
                real_logits = self.discriminator(augment(real, self.config.augmentations, rng), condition)
        total = self.adversarial.generator(real_logits, fake_logits)
        return Losses(total, {"loss": total.detach()})

    def realness(self, batch: Batch) -> Tensor:
        """Compute the mean logit of each image over the scales, `[n]`."""
        logits: Tensor = self.discriminator(batch.images, batch.condition)
        return logits.reshape(len(batch), -1).mean(1)

    def _generate(self, latents: Tensor, condition: Condition, like: Tensor) -> Tensor:
        """Generate images of the size of others, which is smaller in the first phases of a growing run."""
        size = (like.shape[-2], like.shape[-1])
        if size == (self.config.height, self.config.width):
            images: Tensor = self.generator(latents, condition)
        else:
            images = self.generator(latents, condition, size)
        return images

    def _logits(self, real: Tensor, fake: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits of both, and the features of the real images.

        Both are judged in one pass, which is faster, unless batch norm would mix their statistics.
        """
        if self.config.net == "dcgan" and self.config.batch_norm:
            real_logits, features = self.discriminator.judge(real, condition)
            return real_logits, self.discriminator(fake, condition), features
        both = condition[[*range(len(real))] * 2]
        logits, features = self.discriminator.judge(torch.cat([real, fake]), both)
        real_logits, fake_logits = logits.chunk(2)
        return real_logits, fake_logits, features[: len(real)]

    def _penalty_weights(self, images: Tensor) -> dict[str, float]:
        """Return the weight of each penalty for images of a size, by its name."""
        config = self.config
        r1, r2 = (self.gamma(images),) * 2 if config.gamma else (config.r1, config.r2)
        return {"r1": r1, "r2": r2, "gradient_penalty": config.gradient_penalty}

    def _penalties(
        self,
        weights: Mapping[str, float],
        real: Tensor,
        fake: Tensor,
        condition: Condition,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Compute the penalties that have a weight, not yet weighted, by their names."""
        few = max(1, round(len(real) * self.config.penalty_fraction))
        wanted = {name: images[:few] for name, images in (("r1", real), ("r2", fake)) if weights[name]}
        penalties: dict[str, Tensor] = {}
        if wanted:
            discriminate = self._under(condition, few, len(wanted))
            values = squared_gradients(discriminate, torch.cat(list(wanted.values()))).chunk(len(wanted))
            penalties |= {name: value.mean() for name, value in zip(wanted, values, strict=True)}
        if weights["gradient_penalty"]:
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
