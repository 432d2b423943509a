"""Unpaired translation: a network turns images of one domain into images of another, without pairs.

This file reads from top to bottom (after Park et al. 2020, "Contrastive Learning for Unpaired Image-to-Image
Translation", CUT):

1. Configuration.
2. Contrast. A patch of the output should be more like the patch at its place in the input than like other
   patches of the input, in the features of the network's own encoder. So an image keeps what it shows.
3. Losses. A discriminator of patches asks for images of the target domain. An image that is of the target
   domain already should keep its patches too, and so hardly change.
4. Translation, one pass for images of any size.

There is one network, in one direction, and the images are drawn from both domains independently of each other
(`data.domains`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families.adversarial import LOSSES, squared_gradients
from danqing.families.base import Alarm, Batch, Condition, Family, FamilyConfig, Losses, Phase
from danqing.images import with_channels
from danqing.nets.patchgan import PatchDiscriminator
from danqing.nets.translator import PatchHeads, Translator

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
WON = 0.995
"""The share of patches that a discriminator tells apart when it has won."""


# 1. Configuration
class TranslationConfig(FamilyConfig):
    """Settings of unpaired translation.

    widths: channels at each resolution, from fine to coarse. blocks: at the coarsest one.
    contrast: the weight of the likeness of an output's patches to its input's. identity: the same for images
        of the target domain, for identity_share of a batch; 0 leaves them out, which is faster.
    patches: how many patches of each map are compared. vectors: the size of what is compared of a patch.
    temperature: below which differences of likeness matter.
    adversarial_loss: how the discriminator judges.
    gamma: the weight of R1 and R2, which keep the discriminator smooth. penalty_fraction: the share of a
        batch on which they are computed.
    discriminator_features, discriminator_layers: of `PatchDiscriminator`.
    """

    display_name: ClassVar[str] = "translation model"

    family: Literal["translation"] = "translation"
    widths: tuple[int, ...] = (16, 48, 96)
    blocks: int = Field(3, ge=0, le=64)
    contrast: float = Field(1.0, ge=0)
    identity: float = Field(1.0, ge=0)
    identity_share: float = Field(0.5, gt=0, le=1)
    patches: int = Field(128, ge=2, le=4096)
    vectors: int = Field(64, ge=2, le=4096)
    temperature: float = Field(0.07, gt=0, le=10)
    adversarial_loss: Literal["relativistic", "hinge", "least_squares", "non_saturating"] = "relativistic"
    gamma: float = Field(0.1, ge=0)
    penalty_fraction: float = Field(0.5, gt=0, le=1)
    discriminator_features: int = Field(32, ge=4, le=1024)
    discriminator_layers: int = Field(3, ge=1, le=6)
    discriminator_learning_rate_scale: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not 1 <= len(self.widths) <= 6 or min(self.widths) < 4 or max(self.widths) > 8192:
            raise ValueError("widths must hold one to six numbers from 4 to 8192")
        return self

    @property
    def why_not_private(self) -> str:
        return "The generator of a translation model learns from real images, and compares those of a batch."

    @property
    def reads_labels(self) -> bool:
        return False

    @property
    def reads_source(self) -> bool:
        return True

    @property
    def reads_domains(self) -> bool:
        return True


# 2. Contrast
def patch_contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return how badly queries find their own keys, `[n]`.

    Each query is compared with all keys of the same image. The value is the mean over queries of
    -log softmax(q·k / τ) at their own key (InfoNCE; Park et al. 2020, equations 2 and 3).

    queries, keys: vectors of length 1, `[n, p, d]`; query i belongs to key i.
    """
    n, p, _ = keys.shape
    with torch.autocast(keys.device.type, enabled=False):  # bfloat16 would be coarse beside the temperature
        likeness = queries @ keys.transpose(1, 2) / temperature  # [n, p, p]
    own = torch.arange(p, device=keys.device).repeat(n)
    return F.cross_entropy(likeness.flatten(0, 1), own, reduction="none").reshape(n, p).mean(1)


def bounded(images: Tensor) -> Tensor:
    """Limit images to [-1, 1] and keep their gradients, for training.

    The gradient is that of the images before the limit. So white stays white and black stays black without
    effort, and a value that is out of range can return.
    """
    return images + (images.clamp(-1, 1) - images).detach()


class TranslationModel(Family):
    """A generator that turns source images into target images.

    It also contains the networks that the generator learns from.
    """

    has_prior: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ("discriminator", "heads")
    advice_on_collapse: ClassVar[str] = "raise contrast or lower optimizer.learning_rate"

    config: TranslationConfig

    def __init__(self, config: TranslationConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Translator(config.channels, config.widths, config.blocks)
        self.heads = PatchHeads(self.generator.map_widths, config.vectors)
        self.discriminator = PatchDiscriminator(
            config.channels, features=config.discriminator_features, layers=config.discriminator_layers
        )
        self.adversarial = LOSSES[config.adversarial_loss]

    # 3. Losses
    def phases(self) -> tuple[Phase, ...]:
        scale = self.config.discriminator_learning_rate_scale
        return (
            Phase(DISCRIMINATOR, ("discriminator",), learning_rate_scale=scale),
            Phase(GENERATOR, ("generator", "heads")),
        )

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        source = self._source(batch.condition)
        if phase.name == DISCRIMINATOR:
            return self._discriminator_loss(source, batch.images)
        return self._generator_loss(source, batch.images, rng)

    def _discriminator_loss(self, source: Tensor, real: Tensor) -> Losses:
        with torch.no_grad():
            fake = bounded(self.generator(source))
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).chunk(2)
        loss = self.adversarial.discriminator(real_logits, fake_logits)
        logged = {"verdict": loss, "wins": (real_logits > fake_logits).float().mean()}
        if self.config.gamma:
            few = max(1, round(len(real) * self.config.penalty_fraction))
            penalties = squared_gradients(self._judged, torch.cat([real[:few], fake[:few]]))
            logged["r1"], logged["r2"] = (part.mean() for part in penalties.chunk(2))
            loss = loss + self.config.gamma * (logged["r1"] + logged["r2"])
        return Losses(loss, {name: value.detach() for name, value in logged.items()})

    def _judged(self, images: Tensor) -> Tensor:
        """Return the sum of each image's logits, over the root of their number, `[n]`.

        The squared gradient of this is that of one logit, on average, where patches do not overlap. So gamma
        means the same for every size.
        """
        logits = self.discriminator(images).flatten(1)
        total: Tensor = logits.sum(1) / logits.shape[1] ** 0.5
        return total

    def _generator_loss(self, source: Tensor, real: Tensor, rng: torch.Generator) -> Losses:
        config = self.config
        kept = max(1, round(len(real) * config.identity_share)) if config.identity else 0
        made, maps = self.generator.with_maps(torch.cat([source, real[:kept]]))
        made = bounded(made)
        fake_logits = self.discriminator(made[: len(source)])
        real_logits = fake_logits
        if self.adversarial.pairs:
            with torch.no_grad():
                real_logits = self.discriminator(real)
        verdict = self.adversarial.generator(real_logits, fake_logits)
        contrasts = self._contrasts(maps, self.generator.maps(made), rng)
        logged = {"verdict": verdict, "contrast": contrasts[: len(source)].mean()}
        total = verdict + config.contrast * logged["contrast"]
        if kept:
            logged["identity"] = contrasts[len(source) :].mean()
            total = total + config.identity * logged["identity"]
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def _contrasts(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], rng: torch.Generator) -> Tensor:
        """Return the contrast of images, averaged over the maps of their inputs and outputs, `[n]`.

        The places of a map are drawn once for all images. No gradient passes through the inputs' patches.
        """
        config = self.config
        places = [
            torch.randperm(one.shape[2] * one.shape[3], generator=rng, device=one.device)[: config.patches]
            for one in inputs
        ]
        with torch.no_grad():
            keys = self.heads(inputs, places)
        queries = self.heads(outputs, places)
        pairs = zip(queries, keys, strict=True)
        return torch.stack([patch_contrast(q, k, config.temperature) for q, k in pairs]).mean(0)

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        wins = logged.get(f"{DISCRIMINATOR}/wins", 0)
        if wins < WON:
            return []
        text = (
            f"The discriminator has won: it tells {wins:.1%} of the patches apart, so that the generator "
            f"learns no more; raise gamma (it is {self.config.gamma:g}) or lower "
            "discriminator_learning_rate_scale."
        )
        return [Alarm("discriminator won", text)]

    # 4. Translation
    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Translate the source images of a condition.

        Raises ConfigError if there are none.
        """
        return self.translate(self._source(condition), condition, seeds=seeds, **options)

    def translate(
        self, source: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Translate source images of any size to the target domain.

        The result depends on the image alone, not on its seed.

        source: `[n, c, h, w]`.
        Raises ConfigError for any option, since there are none.
        """
        if options:
            raise ConfigError(f"A translation model has no option {', '.join(options)}: leave it out.")
        images: Tensor = self.generator(with_channels(source, self.config.channels)).clamp(-1, 1)
        return images

    @property
    def receptive_radius(self) -> int:
        """Return how many pixels away a result may depend on, at most."""
        return int(self.generator.receptive_radius)

    @property
    def stride(self) -> int:
        """Return by which multiples results move with the source."""
        return int(self.generator.stride)

    def _source(self, condition: Condition) -> Tensor:
        if condition.image is None:
            raise ConfigError("This model turns one image into another: give it a source image.")
        return with_channels(condition.image, self.config.channels)
