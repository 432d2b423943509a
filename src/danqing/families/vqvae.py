"""Vector-quantized autoencoders (van den Oord et al. 2017): images to a grid of whole numbers, and back.

They are a first stage: a transformer writes the numbers, and the decoder here turns them into an image. A
flow model can also generate the vectors before they are rounded to numbers (Rombach et al. 2022, section
3.1). Their own samples are drawn place by place and show no whole image. With a perceptual and an adversarial
term they are VQGANs (Esser et al. 2021).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.autoencoder import DISCRIMINATOR, PHASE, Autoencoder, AutoencoderConfig
from danqing.families.base import Alarm, Batch, Condition, Losses, Phase
from danqing.nets.grids import GridDecoder, GridEncoder, GridShape
from danqing.nets.quantizers import Binary, Codebook, FiniteScalar, Gradient, Quantizer
from danqing.randomness import generator

SETTLED_IMAGES = 20_000
MOST_CODES, MOST_LEVELS = 1 << 18, 256


class VQVAEConfig(AutoencoderConfig):
    """Settings of a tokenizer.

    features: a convolution on the grid has twice as many channels.
    blocks: residual blocks on the grid, in the encoder and in the decoder.
    downsamplings: how often the sides are halved.
    quantizer: `codebook` and `binary` have `vocabulary` codes, `fsq` the product of `levels`.
    depth: codes per place, where each codebook after the first quantizes what was left over.
    code_width: numbers per code of a codebook.
    normalised: codes lie on the unit sphere.
    entropy: the weight of a binary code's entropies.
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
    def why_not_private(self) -> str:
        return "A VQ-VAE keeps averages of its codes, which are computed from images without noise."

    @property
    def reads_labels(self) -> bool:
        """Return False: a code describes how an image looks, not its label."""
        return False

    @property
    def takes_sizes(self) -> bool:
        return True


class VQVAE(Autoencoder):
    """Encoder, quantizer and decoder, and a discriminator if one is configured."""

    has_prior: ClassVar[bool] = False
    lends: ClassVar[str] = "encoder"

    config: VQVAEConfig
    decoder: GridDecoder

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
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
        self.discriminator = self.build_discriminator(config.channels)

    @property
    def vocabulary(self) -> int:
        """Return how many different codes there are."""
        return self.quantizer.vocabulary

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Return rows, columns and codes per place."""
        return (*self._grid, self.quantizer.depth)

    def phases(self) -> tuple[Phase, ...]:
        return self.phases_of("encoder", "quantizer", "decoder")

    def rebuilt(self, batch: Batch) -> Tensor:
        return self._decoded(self.quantizer(self.encoder(batch.images), None).latents, batch.images)

    def _decoded(self, latents: Tensor, like: Tensor) -> Tensor:
        """Return the decoded images, of the size of others."""
        return self.decoder.decoded(latents, (like.shape[-2], like.shape[-1]))

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of a phase.

        The loss of the autoencoder is the squared error as a share of the images' variance, the quantizer's
        loss, and what else is configured. The logged squared_error is of values in [0, 1].
        """
        if phase.name == DISCRIMINATOR:
            return self.judged_loss(batch)
        quantized = self.quantizer(self.encoder(batch.images), rng)
        decoded = self._decoded(quantized.latents, batch.images).float()
        error = (decoded - batch.images).square().mean()
        likeness = error / batch.images.var().clamp_min(1e-4)
        logged = {"squared_error": error / 4, "quantization": quantized.loss, **quantized.logged}
        likeness, verdict = self.with_other_terms(likeness, decoded, batch.images, logged)
        total = likeness + quantized.loss + verdict
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
        decoded: Tensor = self.decoder(self.quantizer.lookup(codes))
        return decoded.float().clamp(-1, 1)

    @torch.no_grad()
    def code_vectors(self) -> Tensor:
        """Return the latents of each first code, float32 `[vocabulary, width]`.

        Further codes of a place are the same for all.
        """
        codes = torch.zeros(self.vocabulary, 1, 1, self.quantizer.depth, dtype=torch.int64)
        codes[:, 0, 0, 0] = torch.arange(self.vocabulary)
        return self.quantizer.lookup(codes.to(self.quantizer.frequencies.device)).float().flatten(1)

    @property
    def factor(self) -> int:
        """Return the sides of a place of latents in pixels."""
        return int(2**self.config.downsamplings)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return channels, rows and columns of what the quantizer rounds."""
        return self.quantizer.width, *self._grid

    @torch.no_grad()
    def compress(self, images: Tensor) -> Tensor:
        """Turn images into latents before they are quantized, float32 `[n, channels, rows, columns]`."""
        latents: Tensor = self.encoder(images)
        return latents.float()

    @torch.no_grad()
    def expand(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Quantize latents and turn them into images `[n, c, h, w]` in [-1, 1].

        size: (width, height), by default its own.
        """
        width, height = size or (self.config.width, self.config.height)
        decoded = self.decoder.decoded(self.quantizer(latents, None).latents, (height, width))
        return decoded.float().clamp(-1, 1)

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
