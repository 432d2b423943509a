"""Vector-quantized autoencoders (van den Oord et al. 2017): images to a grid of whole numbers, and back.

They are a first stage: a transformer writes the numbers, and the decoder here turns them into an image. Their
    own samples are drawn place by place and show nothing whole. With a perceptual and an adversarial term
    they are VQGANs (Esser et al. 2021).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families.adversarial import LOSSES, Loss, squared_gradients
from danqing.families.base import Alarm, Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.nets.grids import GridDecoder, GridEncoder, GridShape
from danqing.nets.patchgan import PatchDiscriminator
from danqing.nets.quantizers import Binary, Codebook, FiniteScalar, Gradient, Quantizer
from danqing.randomness import generator

PHASE, DISCRIMINATOR = "autoencoder", "discriminator"
SETTLED_IMAGES = 20_000
MOST_CODES, MOST_LEVELS = 1 << 18, 256
_LARGEST_RATIO = 1e4


class VQVAEConfig(FamilyConfig):
    """Settings of a tokenizer.

    features: a convolution on the grid has twice as many channels.
    blocks: residual blocks on the grid, in the encoder and in the decoder.
    downsamplings: how often the sides are halved.
    quantizer: `codebook` and `binary` have `vocabulary` codes, `fsq` the product of `levels`.
    depth: codes per place, where each codebook after the first quantizes what was left over.
    code_width: numbers per code of a codebook.
    normalised: codes lie on the unit sphere.
    entropy: the weight of a binary code's entropies.
    perceptual: the weight of the distance in the features of `perceptual_network`.
    adversarial: the weight of the adversarial loss, 0 for none; where `adversarial_adaptive`, relative to the
        gradient of the other terms. The discriminator starts to learn after `adversarial_start_images`, and
        its weight rises over `adversarial_warmup_images` more, so that it has learned something before it
        counts.
    """

    display_name: ClassVar[str] = "VQ-VAE"

    family: Literal["vqvae"] = "vqvae"
    features: int = Field(64, ge=4, le=1024)
    blocks: int = Field(2, ge=0, le=32)
    downsamplings: int = Field(2, ge=1, le=6)
    quantizer: Literal["codebook", "fsq", "binary"] = "codebook"
    vocabulary: int = Field(512, ge=2, le=MOST_CODES)
    depth: int = Field(1, ge=1, le=16)
    code_width: int = Field(16, ge=1, le=1024)
    normalised: bool = False
    levels: tuple[int, ...] = (8, 8, 8)
    gradient: Gradient = "straight_through"
    commitment: float = Field(0.25, ge=0)
    codebook_decay: float = Field(0.99, gt=0, lt=1)
    entropy: float = Field(0.1, ge=0)
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

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.depth > 1 and (self.quantizer != "codebook" or self.normalised):
            raise ValueError('depth above 1 needs quantizer="codebook" and normalised=false')
        if self.quantizer == "binary" and self.vocabulary & (self.vocabulary - 1):
            raise ValueError(f"a binary vocabulary is a power of two, not {self.vocabulary}")
        if self.quantizer == "fsq" and (not self.levels or min(self.levels) < 2):
            raise ValueError("levels must be whole numbers from 2 on, such as [8, 8, 8]")
        if self.quantizer == "fsq" and (
            max(self.levels) > MOST_LEVELS or math.prod(self.levels) > MOST_CODES
        ):
            raise ValueError(
                f"levels must be {MOST_LEVELS} at most, and their product {MOST_CODES:,} at most"
            )
        return self

    @property
    def reads_labels(self) -> bool:
        """Return False: a code describes how an image looks, not its label."""
        return False


class VQVAE(Family):
    """Encoder, quantizer and decoder, and a discriminator if one is configured."""

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)
    has_prior: ClassVar[bool] = False

    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = _build_quantizer(config)
        shape = GridShape(
            height=config.height,
            width=config.width,
            channels=config.channels,
            latents=self.quantizer.width,
            features=config.features,
            blocks=config.blocks,
            downsamplings=config.downsamplings,
        )
        self._grid = shape.grid
        self.encoder = GridEncoder(shape)
        self.decoder = GridDecoder(shape)
        self.discriminator = (
            PatchDiscriminator(
                config.channels,
                features=config.discriminator_features,
                layers=config.discriminator_layers,
            )
            if config.adversarial
            else None
        )
        self._images = 0
        self._stages: Callable[[Tensor], Sequence[Tensor]] | None = None

    @property
    def vocabulary(self) -> int:
        """Return how many different codes there are."""
        return self.quantizer.vocabulary

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Return rows, columns and codes per place."""
        return (*self._grid, self.quantizer.depth)

    @property
    def perceptual_network(self) -> str:
        """Return the network whose features are compared, "" for none."""
        return self.config.perceptual_network if self.config.perceptual else ""

    def perceive(self, stages: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """Take the function that turns images into that network's feature maps."""
        self._stages = stages

    def phases(self) -> tuple[Phase, ...]:
        scale = self.config.discriminator_learning_rate_scale
        learning = (Phase(PHASE, ("encoder", "quantizer", "decoder")),)
        judging = (Phase(DISCRIMINATOR, ("discriminator",), learning_rate_scale=scale),)
        return learning + judging if self.config.adversarial else learning

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

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of a phase.

        The loss of the autoencoder is the squared error as a share of the images' variance, the quantizer's
        loss, and what else is configured. The logged squared_error is of values in [0, 1].
        """
        if phase.name == DISCRIMINATOR:
            return self._discriminator_loss(batch.images)
        quantized = self.quantizer(self.encoder(batch.images), rng)
        painted = self.decoder(quantized.latents).float()
        error = (painted - batch.images).square().mean()
        likeness = error / batch.images.var().clamp_min(1e-4)
        logged = {"squared_error": error / 4, "quantization": quantized.loss, **quantized.logged}
        if self.config.perceptual:
            logged["perceptual"] = self._perceptual(painted, batch.images)
            likeness = likeness + self.config.perceptual * logged["perceptual"]
        total = likeness + quantized.loss
        if self.adversarial_weight:
            verdict = self._verdict(painted, batch.images)
            ratio = self._gradient_ratio(likeness, verdict) if self.config.adversarial_adaptive else 1.0
            weight = self.adversarial_weight * ratio
            total = total + weight * verdict
            logged |= {"adversarial": verdict, "adversarial_weight": torch.as_tensor(weight)}
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Turn images into codes, int64 `[n, rows, columns, depth]`.

        images: `[n, c, h, w]` in [-1, 1].
        """
        codes: Tensor = self.quantizer(self.encoder(images), None).codes
        return codes

    @torch.no_grad()
    def detokenize(self, codes: Tensor) -> Tensor:
        """Turn codes into images `[n, c, h, w]` in [-1, 1]."""
        painted: Tensor = self.decoder(self.quantizer.lookup(codes))
        return painted.float().clamp(-1, 1)

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """Return the images' codes, as `tokenize` does."""
        return self.tokenize(images)

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Return the images of codes, as `detokenize` does."""
        return self.detokenize(latents)

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Sample codes independently, as often as training used them, and decode them.

        A tokenizer has no prior that would know which codes go together. So these images show what codes look
        like and nothing more.
        """
        if options:
            raise ConfigError(f"A VQ-VAE has no sampling option {', '.join(options)}: it has no prior.")
        places = self._grid[0] * self._grid[1]
        shares = self.quantizer.frequencies.double().cpu()
        drawn = [
            torch.multinomial(shares, places, replacement=True, generator=generator(seed, "codes")).T
            for seed in seeds
        ]
        codes = torch.stack(drawn).reshape(-1, *self.code_shape)
        return self.detokenize(codes.to(self.quantizer.frequencies.device))

    def _perceptual(self, painted: Tensor, images: Tensor) -> Tensor:
        """The mean squared distance of feature maps, each place's scaled to length 1 (Zhang et al. 2018,
        equation 1, with all channels weighing the same).
        """
        assert self._stages is not None, "perceive() has not been called"
        with torch.no_grad():
            wanted = [F.normalize(stage.float(), dim=1) for stage in self._stages(images)]
        found = [F.normalize(stage.float(), dim=1) for stage in self._stages(painted)]
        parts = [(a - b).square().sum(1).mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()

    def _verdict(self, painted: Tensor, images: Tensor) -> Tensor:
        """Compute the generator's side of the adversarial loss."""
        assert self.discriminator is not None
        kind = LOSSES[self.config.adversarial_loss]
        fake = self.discriminator(painted)
        real = self.discriminator(images).detach() if kind.pairs else fake
        return kind.generator(real, fake)

    def _gradient_ratio(self, likeness: Tensor, verdict: Tensor) -> Tensor:
        """Compute the ratio of the lengths of both gradients at the decoder's last layer.

        Esser et al. 2021, equation 7.
        """
        weight = self.decoder.last.weight
        lengths = [
            torch.autograd.grad(term, weight, retain_graph=True)[0].float().norm()
            for term in (likeness, verdict)
        ]
        ratio: Tensor = lengths[0] / (lengths[1] + 1e-6)
        return ratio.clamp(0, _LARGEST_RATIO).detach()

    def _discriminator_loss(self, images: Tensor) -> Losses:
        assert self.discriminator is not None
        if self._images < self.config.adversarial_start_images:  # no gradient: it stays as it is
            return Losses(0.0 * self.discriminator.last.bias.sum())  # type: ignore[union-attr]
        with torch.no_grad():
            painted = self.decoder(self.quantizer(self.encoder(images), None).latents).float()
        real, fake = self.discriminator(torch.cat([images, painted])).chunk(2)
        loss = LOSSES[self.config.adversarial_loss].discriminator(real, fake)
        logged = {"verdict": loss, "wins": (real > fake).float().mean()}
        if self.config.r1:
            logged["r1"] = squared_gradients(self.discriminator, images).mean()
            loss = loss + self.config.r1 * logged["r1"]
        return Losses(loss, {name: value.detach() for name, value in logged.items()})

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        use = logged.get(f"{PHASE}/codebook_use", 1.0)
        if self._images < SETTLED_IMAGES or use >= 0.5:
            return []
        advice = {
            "codebook": "lower vocabulary, or set normalised=true or quantizer=fsq",
            "fsq": "use fewer levels",
            "binary": "lower vocabulary, or raise entropy",
        }[self.config.quantizer]
        text = f"Only {use:.0%} of the {self.vocabulary} codes are in use: {advice}."
        return [Alarm("unused codes", text)]


def _build_quantizer(config: VQVAEConfig) -> Quantizer:
    if config.quantizer == "fsq":
        return FiniteScalar(config.levels, decay=config.codebook_decay)
    if config.quantizer == "binary":
        return Binary(
            config.vocabulary.bit_length() - 1,
            commitment=config.commitment,
            entropy=config.entropy,
            decay=config.codebook_decay,
        )
    return Codebook(
        width=config.code_width,
        vocabulary=config.vocabulary,
        depth=config.depth,
        normalised=config.normalised,
        commitment=config.commitment,
        gradient=config.gradient,
        decay=config.codebook_decay,
    )
