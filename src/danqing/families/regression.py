"""Regression from one image to another: restoring, enlarging, colouring or translating in one evaluation.

The network learns the target of each source image by the Charbonnier loss, a smooth L1 (Lai et al. 2017,
equation 4). Where several targets are possible it learns their median, which is blurred. In the last share of
the run a discriminator judges source and result together (Isola et al. 2017, equation 4), which makes results
sharp (Ledig et al. 2017).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families.adversarial import Loss
from danqing.families.back_projection import moved, projected
from danqing.families.base import Batch, Condition, Losses, Phase
from danqing.families.patch_verdict import DISCRIMINATOR, HasPatchVerdict, PatchVerdictConfig
from danqing.nets.layers import crop
from danqing.nets.restoration import RestorationNet, RestorationShape

PHASE = "regression"
EPSILON = 1e-3
"""Of the Charbonnier loss: differences below it count by their square."""


class RegressionConfig(PatchVerdictConfig):
    """Settings of regression.

    features: channels of the network. blocks: residual blocks of two convolutions.
    downsamplings: how often the network halves the sides of the source, without losing pixels. More lets it
        see farther, and computes faster.
    adversarial: the weight of the adversarial finish, relative to the gradient of the likeness where
        `adversarial_adaptive`; 0 for none.
    adversarial_share: the share of the run, at its end, that the finish takes. The weight rises over the
        first fifth of it. By then the learning rate has fallen, so that the discriminator has
        `discriminator_learning_rate_scale` times that of the network.
    """

    display_name: ClassVar[str] = "regression model"

    family: Literal["regression"] = "regression"
    features: int = Field(64, ge=4, le=1024)
    blocks: int = Field(8, ge=1, le=64)
    downsamplings: int = Field(0, ge=0, le=5)
    adversarial: float = Field(0.3, ge=0)
    adversarial_loss: Loss = "relativistic"
    discriminator_learning_rate_scale: float = Field(3.0, gt=0)
    adversarial_share: float = Field(0.25, gt=0, le=1)

    @model_validator(mode="after")
    def _reads_images_alone(self) -> "RegressionConfig":
        if self.source_is_average and self.channels in (2, 4):
            raise ValueError("source_is_average is for images without alpha")
        return self

    @property
    def reads_source(self) -> bool:
        return True

    @property
    def reads_labels(self) -> bool:
        return False


class Regression(HasPatchVerdict):
    """A network from source images to their targets, and perhaps a discriminator."""

    has_prior: ClassVar[bool] = False

    config: RegressionConfig

    def __init__(self, config: RegressionConfig) -> None:
        super().__init__()
        self.config = config
        self._share = 0.0
        self.network = RestorationNet(
            RestorationShape(
                config.source_channels or config.channels,
                config.channels,
                config.source_scale,
                config.features,
                config.blocks,
                config.downsamplings,
            )
        )
        self.discriminator = self.build_discriminator(2 * config.channels)

    @property
    def last_layer(self) -> nn.Module:
        return self.network.last

    @property
    def receptive_radius(self) -> int:
        """Return how far away, in source pixels, a result may depend."""
        return self.network.shape.reach

    @property
    def stride(self) -> int:
        """Return the step of the source with which results move."""
        return self.network.shape.fold

    def phases(self) -> tuple[Phase, ...]:
        return self.phases_with(Phase(PHASE, ("network",)))

    def on_share(self, share: float) -> None:
        self._share = share

    @property
    def finish(self) -> float:
        """Return how much of the adversarial finish is over, in [0, 1].

        It is below 0 if the finish has not begun.
        """
        config = self.config
        if not config.adversarial:
            return -1.0
        return (self._share - (1 - config.adversarial_share)) / config.adversarial_share

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of a phase.

        That of the network is the Charbonnier loss, and in the finish the verdict of the discriminator.
        The logged absolute error is of values in [0, 1].
        """
        source, targets = self.source(batch.condition), batch.images
        if phase.name == DISCRIMINATOR:
            if self.finish < 0:
                return self.resting_loss()
            with torch.no_grad():
                made = self.restored(source, targets)
            return self.discriminator_loss(self._judged(source, made), self._judged(source, targets))
        made = self.restored(source, targets)
        likeness = ((made - targets).square() + EPSILON**2).sqrt().mean()
        logged = {"absolute_error": (made.detach() - targets).abs().mean() / 2}
        if self.finish < 0:
            return Losses(likeness, logged)
        verdict = self.verdict_on(self._judged(source, made), self._judged(source, targets))
        weight = self.verdict_weight(likeness, verdict, self.config.adversarial * min(1.0, 5 * self.finish))
        logged |= {"adversarial": verdict.detach(), "adversarial_weight": weight.detach()}
        return Losses(likeness + weight * verdict, logged)

    def source(self, condition: Condition) -> Tensor:
        """Return the source images of a condition; raises ConfigError."""
        if condition.image is None:
            raise ConfigError("This model turns one image into another: give it a source image.")
        return condition.image

    def restored(self, source: Tensor, targets: Tensor) -> Tensor:
        """Return the results for source images in training.

        They are float32, of the shape of the targets.
        """
        return crop(self._unbounded(source), (targets.shape[2], targets.shape[3]))

    def _unbounded(self, source: Tensor) -> Tensor:
        made: Tensor = self.network(source).float()
        return moved(made, source, self.config.source_scale) if self.config.source_is_average else made

    def _judged(self, source: Tensor, images: Tensor) -> Tensor:
        """Return what the discriminator sees: images beside their source."""
        base = crop(self.network.base(source), (images.shape[2], images.shape[3]))
        return torch.cat([base.to(images.dtype), images], dim=1)

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Return the result for each source image of a condition.

        It does not depend on the seeds. Raises ConfigError for any option.
        """
        if options:
            raise ConfigError(f"A regression model has no option {', '.join(options)}: leave it out.")
        source = self.source(condition)
        made = self._unbounded(source)
        if self.config.source_is_average:
            return projected(made, source, self.config.source_scale)
        return made.clamp(-1, 1)

    def translate(
        self, source: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Turn source images of any size into results.

        source: `[n, c, h, w]`; the results are `source_scale` times as large.
        """
        return self.sample(Condition(image=source), seeds=seeds, **options)
