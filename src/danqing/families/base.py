"""The contract between a family of generative models and everything around it.

The trainer knows the phases of a `Learner`, the evaluator knows `sample` of a `Family`, the service knows
`Condition`; none of them knows a family. What a family can do besides sampling is in `abilities.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from danqing.data.batch import Batch as Batch
from danqing.data.batch import Condition as Condition
from danqing.families.configuration import FamilyConfig as FamilyConfig
from danqing.families.configuration import ReadsText as ReadsText
from danqing.nets import adapters


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of a phase, and what is logged.

    total: a scalar with a graph, which is minimised.
    logged: detached scalars, whose averages are written to the log. Their names are the same for all images.
    """

    total: Tensor
    logged: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that goes wrong in training.

    kind: what it is about, as a short name; an alarm of each kind is raised once in a run.
    text: a sentence that names the setting to change.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimiser's turn in a training step.

    modules: names of the family's direct children whose parameters this phase trains; all others are frozen.
    repeats: optimiser steps of this phase in one training step, each on a fresh batch.
    learning_rate_scale: multiplies the configured learning rate for this phase.
    sees_data: whether its loss reads anything of a batch besides shapes and, as a condition, labels.
    """

    name: str
    modules: tuple[str, ...]
    repeats: int = 1
    learning_rate_scale: float = 1.0
    sees_data: bool = True


ParameterKind = Literal["matrix", "weight", "other"]
"""How an optimiser treats a parameter.

matrix: lies between hidden layers; it decays, and Muon takes its steps. A kernel `[out, in, h, w]` counts as
    the matrix `[out, in * h * w]`.
weight: another matrix, kernel or table; it decays.
other: a gain, a bias or a position; it does not decay, since a smaller one is no simpler.
"""


class Learner(nn.Module):
    """A network that a run trains, resumes and saves.

    Randomness comes only from the generator or the seeds passed in, never from torch's global state, so that
    a resumed run repeats an uninterrupted one bit for bit.
    """

    training_only: ClassVar[tuple[str, ...]] = ()
    """Direct children that a trained model does not need, such as a discriminator.

    They are neither averaged nor saved in the model folder.
    """

    config: FamilyConfig

    @classmethod
    def from_config(cls, config: Any) -> "Learner":
        """Build the variant that suits a configuration, with fresh weights."""
        return cls.variant(config)(config)

    @classmethod
    def variant(cls, config: Any) -> type["Learner"]:
        """Return the class that suits a configuration, one of `variants`."""
        return cls

    @classmethod
    def variants(cls) -> Mapping[str, type["Learner"]]:
        """Return the classes that `variant` chooses from, by their display names.

        An empty name is the display name of the family. A class comes before those that can do more.
        """
        return {"": cls}

    def phases(self) -> tuple[Phase, ...]:
        """Return the optimiser turns of one training step, in order."""
        raise NotImplementedError

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of a phase on a batch.

        rng: a generator on the device of the batch.
        """
        raise NotImplementedError

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        """Return how an optimiser treats a parameter.

        name: of the parameter, as in `named_parameters()`.
        By default a parameter of two or more dimensions whose name has "weight" in it decays, and is a matrix
        where it has two dimensions and lies in a module list called "blocks".
        """
        if parameter.dim() < 2 or "weight" not in name:
            return "other"
        return "matrix" if parameter.dim() == 2 and "blocks." in name else "weight"

    def digest(self) -> str:
        """Compute the sha256 of the weights, in hexadecimal.

        It is the same for an adapter beside the weights and in them.
        """
        return adapters.digest(self)

    def on_start(self, source: FamilyConfig) -> None:
        """Prepare weights that were taken from a trained model.

        source: the configuration of that model.
        """

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        """Return what goes wrong so far.

        logged: the latest averages of the log.
        """
        return []

    def on_progress(self, images: int) -> None:
        """Prepare for the next training step, for warm-ups.

        images: how many have been seen; the state must follow from this number alone.
        """

    def on_share(self, share: float) -> None:
        """Prepare for the next training step, for what begins late.

        share: how much of the run is over, in [0, 1]; the state must follow from this number alone.
        """

    def on_burn_in(self, progress: float) -> None:
        """Prepare for the next training step, for a burn-in.

        progress: how much of the burn-in (`schedule.burn_in`) is over, in [0, 1]; the state must follow from
            this number alone.
        """

    def drop_training_only(self) -> None:
        """Remove the children that a trained model does not need."""
        for name in self.training_only:
            setattr(self, name, None)


class Family(Learner):
    """A generative model: a learner that also samples images."""

    lends: ClassVar[str] = ""
    """The name of the network that `lent` returns, by default of a direct child; "" for none."""

    has_prior: ClassVar[bool] = True
    """False for a first stage, whose `sample` decodes random codes.

    Reports and scores then use its reconstructions.
    """

    chunk: ClassVar[int] = 16
    """Images computed at once. The last chunk is filled up: a matrix product of another size may round
    differently, and an image must not depend on how many others are requested.
    """

    advice_on_collapse: ClassVar[str] = "lower optimizer.learning_rate"
    """What to change when all samples are alike, as the end of a sentence."""

    advice_on_colours: ClassVar[str] = (
        "train for longer, raise training.ema_half_life_images or lower optimizer.learning_rate"
    )
    """What to change when the samples have other colours than the images, as the end of a sentence."""

    def lent(self) -> nn.Module | None:
        """Return the network from which learners of recognition can continue.

        None if there is none. Its `features(images)` are a map `[n, c, h, w]` or vectors `[n, c]`. A last
        layer that is called `last` or `head` is not part of them. If they cannot be computed on PyTorch's
        device "meta", its `feature_channels` says c.
        """
        found: nn.Module | None = getattr(self, self.lends) if self.lends else None
        return found

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Sample one image per seed.

        Images are `[n, c, h, w]`, float32 in [-1, 1]. Image i depends on `seeds[i]` and row i of `condition`
        alone. The caller sets eval mode and no-grad, and gives a label for every image where the family has
        labels.
        """
        raise NotImplementedError

    def sample_defaults(self) -> Mapping[str, Any]:
        """Return the options of `sample` whose defaults are not in its signature.

        These follow from the configuration.
        """
        return {}

    def sampling_bytes(self) -> int:
        """Return the bytes of memory that sampling holds between calls.

        They are weights, buffers and their caches.
        """
        return bytes_of(self)


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers, wherever they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def nats_to_bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Turn a negative log-likelihood in nats per image into bits per dimension."""
    return nats / (dimensions * math.log(2))
