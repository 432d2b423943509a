"""The classifier: gives each image one of its labels, or several.

A trunk turns an image into a map of features, whose mean is the embedding; one matrix turns it into logits.
Labels of data with one label per image share a softmax; where an image may have several, each has a sigmoid.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families.base import Batch, Learner, Losses, ParameterKind, Phase
from danqing.learners.perturbation import Ball, Verdict, pgd
from danqing.learners.trunk import TrunkConfig, build_trunk, trunk_parameter_kind
from danqing.nets.diffaugment import cutout
from danqing.nets.training_views import mirror, mix, one_hot, shift

PHASE = "classifier"
_ONE_STEP, _ALL_STEPS = 1.25, 2.5
"""The length of an attack's step, at most, and of all its steps, in radii."""


class ClassifierConfig(TrunkConfig):
    """Settings of a classifier, besides those of its trunk.

    label_smoothing: the share of each target that is spread over all labels.
    shift, cutout: how far training images move, and the side of a square that is hidden in each, as shares of
        their sides. mirror: the probability of a mirror image, besides what `data.augment` does. mixup: the
        largest share of another image in each.
    noise: the standard deviation of normal noise on training images, as a share of the range of values; a
        classifier that randomized smoothing will certify needs the noise of the smoothing.
    adversarial_epsilon: train on images that an attack has changed by up to this share of the range of values
        (norm linf), against such attacks; 0 does not. adversarial_steps: of the attack; each costs as much as
        a training step without it.
    balanced: treat all labels as equally frequent, however many images each has: their log frequencies (log
        odds for label sets) are added to the logits in training alone (Menon et al. 2021, equation 10).
    label_set: the labels of data whose images may have several; empty where each image has one of `labels`.
    label_set_shares: the share of the images that have each of them.
    """

    display_name: ClassVar[str] = "classifier"
    from_data: ClassVar[frozenset[str]] = TrunkConfig.from_data | {"label_set", "label_set_shares"}

    family: Literal["classifier"] = "classifier"
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    shift: float = Field(0.0, ge=0, le=0.5)
    cutout: float = Field(0.0, ge=0, lt=1)
    mirror: float = Field(0.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0, le=0.5)
    noise: float = Field(0.0, ge=0, le=1)
    adversarial_epsilon: float = Field(0.0, ge=0, le=1)
    adversarial_steps: int = Field(1, ge=1, le=100)
    balanced: bool = False
    label_set: tuple[str, ...] = ()
    label_set_shares: tuple[float, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels, in the order of the logits."""
        return self.label_set or self.labels

    @property
    def reads_labels(self) -> bool:
        return not self.label_set

    def check_shape(self) -> None:
        super().check_shape()
        if len(self.classes) < 2 and not self.label_set:
            raise ConfigError(
                "A classifier needs images of at least two labels: put them into a folder for each label, or "
                "name a column of labels."
            )


class Classifier(Learner):
    """A trunk and a matrix, from images to logits."""

    config: ClassifierConfig
    label_shift: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_trunk(config)
        self.head = nn.Linear(self.trunk.outputs, max(1, len(config.classes)))
        self.register_buffer("label_shift", _label_shift(config), persistent=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels, in the order of the logits."""
        return self.config.classes

    @property
    def is_multi_label(self) -> bool:
        """Return whether an image may have several labels."""
        return bool(self.config.label_set)

    @property
    def embedding_size(self) -> int:
        """Return the length of a vector."""
        return self.trunk.outputs

    def embed(self, images: Tensor) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32.

        They are the mean of the last map of the trunk.
        """
        vectors: Tensor = self.trunk(images).mean((2, 3), dtype=torch.float32)
        return vectors

    def logits(self, images: Tensor) -> Tensor:
        """Compute the logits of each label, `[n, k]` float32."""
        logits: Tensor = self.head(self.embed(images))
        return logits.float()

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("trunk", "head")),)

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        return trunk_parameter_kind(name, parameter)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the cross-entropy of the targets.

        The logged accuracy is of changed training images.
        """
        config, known = self.config, self.targets(batch)
        images, targets = self.views(batch.images, rng), self._smoothed(known)
        if config.mixup:
            images, targets = mix(images, targets, rng, config.mixup)
        if config.adversarial_epsilon:
            images = self._attacked(images, targets, rng)
        return self.loss_of(self.logits(images), targets, known)

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Change training images at random, as the configuration says."""
        config = self.config
        if config.shift:
            images = shift(images, rng, config.shift)
        if config.mirror:
            images = mirror(images, rng, config.mirror)
        if config.cutout:
            images = cutout(images, rng, config.cutout)
        if config.noise:
            images = images + 2 * config.noise * _normal(images, rng)
        return images.contiguous(memory_format=torch.channels_last)

    def _attacked(self, images: Tensor, targets: Tensor, rng: torch.Generator) -> Tensor:
        """Return images that an attack on the network as it is now has changed.

        The attack sees the averages of batch normalization, so that it leaves them as they are. With one step
        it starts at random and steps further than the ball (Wong et al. 2020, "Fast is better than free").
        """
        config, was_training = self.config, self.training
        ball = Ball("linf", config.adversarial_epsilon)

        def objective(seen: Tensor, rows: Tensor) -> Verdict:
            found, wanted = self.logits(seen) + self.label_shift, targets[rows]
            if self.is_multi_label:
                value = F.binary_cross_entropy_with_logits(found, wanted, reduction="none").sum(1)
            else:
                value = F.cross_entropy(found, wanted, reduction="none")
            return Verdict(value, torch.zeros_like(rows, dtype=torch.bool))

        step_size = min(_ONE_STEP, _ALL_STEPS / config.adversarial_steps) * ball.radius
        noise = _normal(images, rng)
        self.eval()
        try:
            return pgd(
                objective, images, ball, steps=config.adversarial_steps, step_size=step_size, noise=noise
            )
        finally:
            self.train(was_training)

    def targets(self, batch: Batch) -> Tensor:
        """Return the targets of a batch, `[n, k]` in {0, 1}."""
        if self.is_multi_label:
            label_sets = None if batch.targets is None else batch.targets.label_set
            assert label_sets is not None
            return label_sets
        assert batch.condition.label is not None
        return one_hot(batch.condition.label, len(self.classes))

    def loss_of(self, logits: Tensor, targets: Tensor, known: Tensor) -> Losses:
        """Compute the loss of logits `[n, k]` against soft targets.

        known: the targets in {0, 1} that the logged accuracy compares with.
        """
        shifted = logits + self.label_shift
        if self.is_multi_label:
            loss = F.binary_cross_entropy_with_logits(shifted, targets)
            right = ((shifted > 0) == (known > 0.5)).float().mean()
        else:
            loss = F.cross_entropy(shifted, targets)
            right = known.gather(1, shifted.argmax(1, keepdim=True)).mean()
        return Losses(loss, {"accuracy": right.detach()})

    def _smoothed(self, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        if self.is_multi_label:
            return targets * (1 - smoothing) + smoothing / 2
        labelled = targets.sum(1, keepdim=True)  # an image without a label counts for nothing
        return targets * (1 - smoothing) + labelled * smoothing / targets.shape[1]


def _normal(images: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=rng, device=images.device)


def _label_shift(config: ClassifierConfig) -> Tensor:
    """Return what is added to each logit in training: the log frequency of its label, or its log odds."""
    shares = torch.tensor(config.label_set_shares or config.label_frequencies, device="cpu")
    if not config.balanced or not len(shares):
        return torch.zeros(max(1, len(config.classes)), device="cpu")  # no model folder holds it
    shares = shares.clamp(1e-6, 1 - 1e-6)
    return shares.logit() if config.label_set else shares.log()
