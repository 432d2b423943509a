"""What autoencoders share: a perceptual and an adversarial term, which make their images sharp.

Where latents leave something open, the squared error asks for the mean of the possibilities, which is
blurred. The perceptual term compares features of another network (Zhang et al. 2018). The adversarial term is
the verdict of a discriminator on patches (Esser et al. 2021).
"""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.families.base import Batch, Losses, Phase
from danqing.families.patch_verdict import DISCRIMINATOR as DISCRIMINATOR
from danqing.families.patch_verdict import HasPatchVerdict, PatchVerdictConfig
from danqing.nets.patchgan import PatchDiscriminator

PHASE = "autoencoder"


class AutoencoderConfig(PatchVerdictConfig):
    """Settings of the terms beside the likeness of pixels.

    perceptual: the weight of the distance in the features of `perceptual_network`.
    adversarial_start_images: after how many images the discriminator starts to learn. Its weight rises over
        `adversarial_warmup_images` more, so that it has learned something before it counts.
    """

    perceptual: float = Field(0.0, ge=0)
    perceptual_network: str = "efficientnet-lite0"
    adversarial_start_images: int = Field(50_000, ge=0)
    adversarial_warmup_images: int = Field(25_000, ge=0)


class Autoencoder(HasPatchVerdict):
    """A family that encodes and decodes images, perhaps with a discriminator."""

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
    def last_layer(self) -> nn.Module:
        last: nn.Module = self.decoder.last  # type: ignore[assignment]
        return last

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
        return self.phases_with(Phase(PHASE, modules))

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
        verdict = self.verdict_on(decoded, images)
        weight = self.verdict_weight(likeness, verdict, self.adversarial_weight)
        logged |= {"adversarial": verdict, "adversarial_weight": weight}
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

    def judged_loss(self, batch: Batch) -> Losses:
        """Compute the loss of the discriminator, which is 0 before it starts."""
        if self._images < self.config.adversarial_start_images:
            return self.resting_loss()
        with torch.no_grad():
            decoded = self.rebuilt(batch).float()
        return self.discriminator_loss(decoded, batch.images)
