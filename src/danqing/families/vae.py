"""Variational autoencoders (Kingma and Welling 2014): encoder, prior over latents, decoder, likelihood.

The bound is E[log p(x|z)] - beta KL(q(z|x) || p(z)), with beta as in the beta-VAE (Higgins et al. 2017). What
makes samples good is a learned scale of the pixels' likelihood (Rybkin et al. 2021), which lets the latents
carry detail, and a learned prior, which follows the posteriors.

With `net = "grid"` the latents are a small image (Rombach et al. 2022, section 3.1). Such a VAE is the first
stage of a flow model.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families.autoencoder import DISCRIMINATOR, PHASE, Autoencoder, AutoencoderConfig
from danqing.families.base import Alarm, Batch, Condition, Learner, Losses, Phase, nats_to_bits_per_dim
from danqing.families.likelihoods import LikelihoodName, build_likelihood
from danqing.families.seamless import check_one_evaluation, wrapped
from danqing.images import mean_outside
from danqing.nets.autoencoders import AutoencoderShape, Net, build_decoder, build_encoder
from danqing.nets.grids import GridShape, VectorDecoder, VectorEncoder, grid_of
from danqing.nets.priors import FlowPrior, NormalPrior
from danqing.nets.wrapping import Wrappable
from danqing.options import check, complete
from danqing.randomness import normal

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5.2: a latent is active where Var_x(E_q[z|x]) is more
FILL_STEPS = 8
_LOG_SCALE_LIMIT = 7.0


class VAEConfig(AutoencoderConfig):
    """Settings of a variational autoencoder.

    net: `hybrid` learns most per second where things stand in the same place in all images; `resnet` and
        `conv` do not expect that. `grid` has latents at each place of a grid, and reads no labels.
    downsamplings: how often `grid` halves the sides.
    latents: numbers for each image, or with `grid` for each place.
    features: a convolution at the coarsest resolutions has twice as many channels, a dense layer 16 times as
        many.
    blocks: residual blocks per resolution, or of dense layers.
    scale: of the pixels' likelihood: "learned", "pixel" (one per pixel, from the decoder) or a number in
        units of the pixel range [-1, 1].
    beta: reaches its value after `beta_warmup_images` images.
    couplings: of the flow prior.
    """

    display_name: ClassVar[str] = "VAE"

    family: Literal["vae"] = "vae"
    net: Net | Literal["grid"] = "hybrid"
    downsamplings: int = Field(3, ge=1, le=6)
    features: int = Field(64, ge=4, le=1024)
    blocks: int = Field(1, ge=1, le=16)
    latents: int = Field(64, ge=1, le=65536)
    likelihood: LikelihoodName = "gaussian"
    scale: Literal["learned", "pixel"] | float = "learned"
    beta: float = Field(1.0, ge=0, le=1000)
    beta_warmup_images: int = Field(0, ge=0)
    prior: Literal["normal", "flow"] = "flow"
    couplings: int = Field(6, ge=1, le=64)
    prior_features: int = Field(256, ge=1, le=8192)

    @property
    def reads_labels(self) -> bool:
        return self.conditional and self.net != "grid"

    @property
    def reads_attributes(self) -> bool:
        return self.reads_labels

    @property
    def takes_sizes(self) -> bool:
        return self.net == "grid"

    @property
    def why_not_private(self) -> str:
        if self.adversarial:
            return (
                "The adversarial term weighs the gradients of a whole batch, not of one image: set "
                "adversarial=0."
            )
        if self.perceptual:
            return "The perceptual term has not been made private: set perceptual=0."
        return ""

    @model_validator(mode="after")
    def _settings_fit(self) -> "VAEConfig":
        if not isinstance(self.scale, str) and not 0 < self.scale < math.inf:
            raise ValueError("scale must be a positive number, 'learned' or 'pixel'")
        if self.prior == "flow" and self.latents < 2:
            raise ValueError("a flow prior needs at least 2 latents: use prior=normal")
        if self.prior == "flow" and self.net == "grid":
            raise ValueError("a grid of latents has no flow prior: use prior=normal")
        return self


class VAE(Autoencoder):
    """Encoder, prior, decoder and likelihood, and perhaps a discriminator."""

    lends: ClassVar[str] = "encoder"

    config: VAEConfig
    decoder: Wrappable

    @classmethod
    def variants(cls) -> Mapping[str, type[Learner]]:
        return {"": VAE, "VAE with a grid of latents": GridVAE}

    @classmethod
    def variant(cls, config: VAEConfig) -> type[Learner]:
        return GridVAE if config.net == "grid" else VAE

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        labels = len(config.labels) if config.reads_labels else 0
        self.labels = labels
        self.likelihood = build_likelihood(config.likelihood, config.scale)
        self.encoder, self.decoder, self.latent_count = self._build_nets()
        self.prior: FlowPrior | NormalPrior
        if config.prior == "flow":
            self.prior = FlowPrior(
                self.latent_count,
                labels,
                config.attributes,
                couplings=config.couplings,
                hidden=config.prior_features,
            )
        else:
            self.prior = NormalPrior(self.latent_count, labels, config.attributes)
        self.discriminator = self.build_discriminator(config.channels)

    def _build_nets(self) -> tuple[nn.Module, Wrappable, int]:
        """Return encoder, decoder and the number of latents of an image."""
        config = self.config
        assert config.net != "grid"
        shape = AutoencoderShape(
            height=config.height,
            width=config.width,
            channels=config.channels,
            latents=config.latents,
            features=config.features,
            blocks=config.blocks if config.net != "conv" else 0,
            labels=self.labels,
            attributes=config.attributes,
        )
        outputs = config.channels * self.likelihood.parameters_per_channel
        return build_encoder(config.net, shape), build_decoder(config.net, shape, outputs), config.latents

    def phases(self) -> tuple[Phase, ...]:
        return self.phases_of("encoder", "decoder", "prior", "likelihood")

    def rebuilt(self, batch: Batch) -> Tensor:
        return self.reconstruct(batch.images, batch.condition)

    @property
    def beta(self) -> float:
        """Return the weight of the divergence at this point of the warm-up."""
        warmup = self.config.beta_warmup_images
        return self.config.beta * (min(1.0, self._images / warmup) if warmup else 1.0)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of a phase.

        That of the autoencoder is the negative bound with beta, in nats per dimension, and what else is
        configured. The logged bits_per_dim have beta = 1; squared_error is of values in [0, 1].
        """
        if phase.name == DISCRIMINATOR:
            return self.judged_loss(batch)
        condition = batch.condition
        mean, log_scale = self.posterior(batch.images, condition)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        latents = mean + log_scale.exp() * noise
        output = self._decoded(latents, condition, batch.images)
        reconstruction = -self.likelihood.log_prob(output, batch.images).mean()
        divergence = self.divergence(latents, mean, log_scale, condition).mean()
        total = (reconstruction + self.beta * divergence) / self.config.dimensions
        decoded, logged = self.likelihood.mean(output), dict[str, Tensor]()
        total, verdict = self.with_other_terms(total, decoded, batch.images, logged)
        with torch.no_grad():
            logged |= {
                "squared_error": (decoded - batch.images).square().mean() / 4,
                "reconstruction": reconstruction.detach(),
                "divergence": divergence.detach(),
                "active_latents": (mean.var(0, correction=0) > ACTIVE_VARIANCE).float().mean(),
                "beta": torch.tensor(self.beta),
            }
            if self.config.likelihood != "bernoulli":
                bound = (reconstruction + divergence).detach()
                logged["bits_per_dim"] = nats_to_bits_per_dim(bound, self.config.dimensions)
            if (scale := self.likelihood.scale()) is not None:
                logged["scale"] = scale
        return Losses(total + verdict, {name: value.detach() for name, value in logged.items()})

    def _decoded(self, latents: Tensor, condition: Condition, like: Tensor) -> Tensor:
        """Return what the decoder gives for images of the size of others."""
        output: Tensor = self.decoder(latents, condition)
        return output

    def posterior(self, images: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Compute mean and log standard deviation of q(z | x), float32.

        Each is `[n, d]`.
        """
        self._check(condition)
        mean, log_scale = self.encoder(images, condition).float().chunk(2, dim=1)
        return mean, log_scale.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)

    def divergence(
        self, latents: Tensor, mean: Tensor, log_scale: Tensor, condition: Condition | None
    ) -> Tensor:
        """Compute KL(q(z|x) || p(z)) in nats, `[n]`.

        It is exact for the Gaussian prior, else estimated at `latents`, which were drawn from q.
        """
        if isinstance(self.prior, NormalPrior):
            return gaussian_divergence(mean, log_scale, *self.prior.statistics(mean, condition))
        entropy = (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
        return -entropy - self.prior.log_prob(latents, condition)

    def sample_defaults(self) -> Mapping[str, Any]:
        return {"temperature": 1.0, **({"seamless": "none"} if self.decoder.multiple else {})}

    def check_seamless(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if the decoder has no seamless image of this (width, height)."""
        check_one_evaluation(self.decoder, size, self.config.net, "conv or resnet")

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Sample one image per seed: the decoder's mean.

        options: temperature multiplies the noise, below 1 is safer and above 1 more varied; seamless, the
            axes along which opposite edges fit together, "none", "x", "y" or "both".
        """
        chosen = complete(options, self.sample_defaults(), "A VAE")
        if (seamless := chosen.get("seamless", "none")) != "none":
            self.check_seamless((self.config.width, self.config.height))
        self._check(condition)
        device = next(self.parameters()).device
        noise = chosen["temperature"] * normal(seeds, (self.latent_count,), device=device)
        with wrapped(seamless):
            return self.from_noise(noise, condition)

    @property
    def noise_size(self) -> int:
        """Return the number of latents."""
        return self.latent_count

    def from_noise(self, noise: Tensor, condition: Condition) -> Tensor:
        """Turn noise `[n, noise_size]` into images: the prior makes latents of it."""
        return self.decode(self.prior.from_noise(noise, condition), condition)

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """Return the posterior's mean `[n, latents]` for each image."""
        return self.posterior(images, condition)[0]

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Return the mean image of each vector of latents.

        Images are `[n, c, h, w]` in [-1, 1].
        """
        self._check(condition)
        return self.likelihood.mean(self.decoder(latents, condition))

    def reconstruct(self, images: Tensor, condition: Condition) -> Tensor:
        """Encode and decode images `[n, c, h, w]`."""
        return self.likelihood.mean(self._decoded(self.encode(images, condition), condition, images))

    def interpolate(self, first: Tensor, second: Tensor, condition: Condition, *, steps: int) -> Tensor:
        """Interpolate from each of `first` to its partner in `second`.

        Both are `[n, c, h, w]`. Returns images `[n, steps, c, h, w]`, both ends included. The interpolation
        is spherical (slerp) in the prior's noise, where the typical set is a sphere, and not linear in
        latents.
        """
        start, end = (self.prior.to_noise(self.encode(i, condition), condition)[0] for i in (first, second))
        frames = [
            self.decode(self.prior.from_noise(slerp(start, end, float(t)), condition), condition)
            for t in torch.linspace(0, 1, steps)
        ]
        return torch.stack(frames, 1)

    def traverse(
        self, images: Tensor, condition: Condition, *, latent: int, values: Sequence[float]
    ) -> Tensor:
        """Set one coordinate of the noise to each of some values.

        latent: its number, from 0. values: in standard deviations.
        Returns images `[n, len(values), c, h, w]`. Raises ConfigError where there is no such latent.
        """
        if not 0 <= latent < self.latent_count:
            raise ConfigError(f"There is no latent {latent}: choose one from 0 to {self.latent_count - 1}.")
        noise = self.prior.to_noise(self.encode(images, condition), condition)[0]
        frames = []
        for value in values:
            moved = noise.clone()
            moved[:, latent] = value
            frames.append(self.decode(self.prior.from_noise(moved, condition), condition))
        return torch.stack(frames, 1)

    def vary(self, images: Tensor, condition: Condition, *, seeds: Sequence[int], strength: float) -> Tensor:
        """Sample from the images' own noise, moved towards fresh noise.

        The step, that of the preconditioned Crank-Nicolson proposal (Cotter et al. 2013), keeps the noise
        normal.
        """
        noise = self.prior.to_noise(self.encode(images, condition), condition)[0]
        fresh = normal(seeds, (self.latent_count,), device=noise.device)
        moved = math.sqrt(1 - strength**2) * noise + strength * fresh
        return self.decode(self.prior.from_noise(moved, condition), condition)

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        num_steps: int = FILL_STEPS,
    ) -> Tensor:
        """Sample what a mask covers, in several steps.

        Each step encodes the image, draws latents, decodes them and puts the rest back. This Markov chain
        approaches the model's distribution of the covered part given the rest (Rezende et al. 2014, appendix
        F). The last step decodes the posterior's mean.
        num_steps: how often.
        """
        check(num_steps=num_steps)
        filled = self._first_guess(images, mask, condition, seeds)
        for step in range(num_steps):
            mean, log_scale = self.posterior(torch.where(mask > 0, filled, images), condition)
            if step < num_steps - 1:
                noise = normal(seeds, mean.shape[1:], purpose=f"step {step}", device=mean.device)
                mean = mean + log_scale.exp() * noise
            filled = self.decode(mean, condition)
        return torch.where(mask > 0, filled, images)

    def _first_guess(
        self, images: Tensor, mask: Tensor, condition: Condition, seeds: Sequence[int]
    ) -> Tensor:
        """Return what is first put where a mask covers images."""
        return self.sample(condition, seeds=seeds)

    @torch.no_grad()
    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """Compute the importance-weighted bound in bits per dimension, `[n]`.

        Burda et al. 2016, eq. 8, with beta = 1. There is one pass per sample, so memory does not grow with
        `samples`. Raises ConfigError for greys under Bernoulli.
        """
        if samples < 1:
            raise ConfigError(f"samples must be at least 1 (got {samples}).")
        self.likelihood.check_levels(batch.images)
        shape, device = (len(batch), self.latent_count), batch.images.device
        noise = (torch.randn(shape, generator=rng, device=device) for _ in range(samples))
        return nats_to_bits_per_dim(-self._log_mean_weight(batch, noise), self.config.dimensions)

    evidence_samples = 8

    def log_evidence(self, batch: Batch, *, seeds: Sequence[int], samples: int = 1) -> Tensor:
        """Compute the importance-weighted bound on log p(image | condition), `[n]`."""
        shape, device = (self.latent_count,), batch.images.device
        noise = (normal(seeds, shape, purpose=f"evidence {i}", device=device) for i in range(samples))
        return self._log_mean_weight(batch, noise)

    def _log_mean_weight(self, batch: Batch, noise: Iterable[Tensor]) -> Tensor:
        """Return the log of the mean importance weight p(x, z) / q(z|x), `[n]`.

        noise: of the latents of each sample, `[n, d]`.
        """
        condition, count = batch.condition, 0
        mean, log_scale = self.posterior(batch.images, condition)
        total = torch.full((len(batch),), -math.inf, device=mean.device)
        for drawn in noise:
            count += 1
            latents = mean + log_scale.exp() * drawn
            log_q = -(log_scale + 0.5 * (drawn.square() + math.log(2 * math.pi))).sum(1)
            log_likelihood = self.likelihood.log_prob(self.decoder(latents, condition), batch.images)
            log_weight = log_likelihood + self.prior.log_prob(latents, condition) - log_q
            total = torch.logaddexp(total, log_weight)
        return total - math.log(count)

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        config, count = self.config, self.latent_count
        active = logged.get(f"{PHASE}/active_latents", 1.0)
        settled = self._images >= max(20_000, 2 * config.beta_warmup_images)
        if not settled or active * count >= max(1.0, 0.1 * count):
            return []
        text = (
            f"Only {active:.0%} of the {count} latents carry anything about the images (posterior "
            f"collapse): lower beta (now {config.beta:g}), raise beta_warmup_images (now "
            f"{config.beta_warmup_images}), or use fewer latents."
        )
        return [Alarm("posterior collapse", text)]

    def _check(self, condition: Condition | None) -> None:
        """Raise ConfigError where this model has learned labels and the condition has none."""
        if self.labels and (condition is None or condition.label is None):
            raise ConfigError(
                f"This model needs a label for every image: one of {', '.join(self.config.labels[:8])}."
            )


class GridVAE(VAE):
    """A VAE whose latents are a small image.

    A flow model generates them. Its own samples decode noise that is drawn place by place, and show no whole
    image.
    """

    has_prior: ClassVar[bool] = False

    def _build_nets(self) -> tuple[nn.Module, Wrappable, int]:
        config = self.config
        shape = GridShape(
            height=config.height,
            width=config.width,
            channels=config.channels,
            latents=config.latents,
            features=config.features,
            blocks=config.blocks,
            downsamplings=config.downsamplings,
        )
        self._grid = shape.grid
        outputs = config.channels * self.likelihood.parameters_per_channel
        encoder = VectorEncoder(replace(shape, latents=2 * config.latents))
        return encoder, VectorDecoder(replace(shape, channels=outputs)), math.prod(self.latent_shape)

    @property
    def factor(self) -> int:
        """Return the sides of a place of latents in pixels."""
        return int(2**self.config.downsamplings)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return channels, rows and columns."""
        return self.config.latents, *self._grid

    def _decoded(self, latents: Tensor, condition: Condition, like: Tensor) -> Tensor:
        output: Tensor = self.decoder(latents, condition, (like.shape[-2], like.shape[-1]))
        return output

    def _first_guess(
        self, images: Tensor, mask: Tensor, condition: Condition, seeds: Sequence[int]
    ) -> Tensor:
        """Return the mean colour of the rest, since its own samples show nothing."""
        return mean_outside(images, mask).expand_as(images)

    @torch.no_grad()
    def compress(self, images: Tensor) -> Tensor:
        """Return the most likely latents of images, `[n, channels, rows, columns]` float32."""
        grid = grid_of((images.shape[-2], images.shape[-1]), self.factor)
        latents: Tensor = self.encode(images, Condition()).unflatten(1, (self.config.latents, *grid))
        return latents

    @torch.no_grad()
    def expand(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the mean images of latents, `[n, c, h, w]` in [-1, 1].

        size: (width, height), by default its own.
        """
        width, height = size or (self.config.width, self.config.height)
        return self.likelihood.mean(self.decoder(latents.flatten(1), Condition(), (height, width)))


def gaussian_divergence(
    mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor
) -> Tensor:
    """Compute KL between diagonal Gaussians in nats, `[n]`.

    Arguments are `[n, d]` each (Kingma and Welling 2014, app. B).
    """
    difference = log_scale - prior_log_scale
    scaled = (mean - prior_mean) * torch.exp(-prior_log_scale)
    return 0.5 * ((2 * difference).exp() + scaled.square() - 1 - 2 * difference).sum(1)


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Interpolate `[n, d]` spherically at t in [0, 1] (Shoemake 1985).

    The interpolation is linear where the two vectors nearly align.
    """
    cosine = F.cosine_similarity(start, end, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine)[:, None]
    sine = torch.sin(angle)
    spherical = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / sine.clamp_min(1e-6)
    return torch.where(sine > 1e-3, spherical, torch.lerp(start, end, t))
