"""Vector-quantized autoencoders (van den Oord et al. 2017): images to a grid of whole numbers, and back.

They are a first stage: a transformer writes the numbers, and the decoder here paints what it wrote. Their own
samples are drawn place by place and show nothing whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.base import Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.nets.grids import GridDecoder, GridEncoder, GridShape
from danqing.nets.quantizers import Binary, Codebook, FiniteScalar, Gradient, Quantizer
from danqing.randomness import generator

PHASE = "autoencoder"
SETTLED_IMAGES = 20_000


class VQVAEConfig(FamilyConfig):
    """A tokenizer's settings.

    features: the width of a convolution on the grid is twice that. blocks: residual blocks on the grid, in
    the encoder and in the decoder. downsamplings: how often the sides are halved. quantizer: `codebook` and
    `binary` have `vocabulary` codes, `fsq` the product of `levels`. depth: codes per place, where each
    codebook after the first quantizes what was left over. code_width: numbers per code of a codebook.
    normalised: codes on the unit sphere. entropy: the weight of a binary code's entropies.
    """

    family: Literal["vqvae"] = "vqvae"
    features: int = Field(64, ge=4, le=1024)
    blocks: int = Field(2, ge=0, le=32)
    downsamplings: int = Field(2, ge=1, le=6)
    quantizer: Literal["codebook", "fsq", "binary"] = "codebook"
    vocabulary: int = Field(512, ge=2, le=1 << 18)
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
        return self

    @property
    def reads_labels(self) -> bool:
        """A code says what an image looks like, whatever it is called."""
        return False


class VQVAE(Family):
    """Encoder, quantizer and decoder, each a direct child."""

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
        self._images = 0

    @property
    def vocabulary(self) -> int:
        """How many different codes there are."""
        return self.quantizer.vocabulary

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Rows, columns and codes per place."""
        return (*self._grid, self.quantizer.depth)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("encoder", "quantizer", "decoder")),)

    def on_progress(self, images: int) -> None:
        self._images = images

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """The squared error as a share of the images' variance, and the quantizer's loss.

        What is logged as squared_error is of values in [0, 1].
        """
        quantized = self.quantizer(self.encoder(batch.images), rng)
        painted = self.decoder(quantized.latents).float()
        error = (painted - batch.images).square().mean()
        total = error / batch.images.var().clamp_min(1e-4) + quantized.loss
        logged = {"squared_error": error / 4, "quantization": quantized.loss, **quantized.logged}
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Images `[n, c, h, w]` in [-1, 1] to codes, int64 `[n, rows, columns, depth]`."""
        codes: Tensor = self.quantizer(self.encoder(images), None).codes
        return codes

    @torch.no_grad()
    def detokenize(self, codes: Tensor) -> Tensor:
        """Codes to images `[n, c, h, w]` in [-1, 1]."""
        painted: Tensor = self.decoder(self.quantizer.lookup(codes))
        return painted.float().clamp(-1, 1)

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """The images' codes, as `tokenize` gives them."""
        return self.tokenize(images)

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """The images of codes, as `detokenize` paints them."""
        return self.detokenize(latents)

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Paint codes that are drawn each by itself, as often as training wrote them: there is no prior here
        that would know which go together, so that these images show what codes look like and nothing more.
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

    def alarms(self, logged: Mapping[str, float]) -> list[str]:
        use = logged.get(f"{PHASE}/codebook_use", 1.0)
        if self._images < SETTLED_IMAGES or use >= 0.5:
            return []
        mend = {
            "codebook": "lower vocabulary, or set normalised=true or quantizer=fsq",
            "fsq": "use fewer levels",
            "binary": "lower vocabulary, or raise entropy",
        }[self.config.quantizer]
        return [f"Only {use:.0%} of the {self.vocabulary} codes are in use: {mend}."]


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
