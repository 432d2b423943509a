"""The contract between a family of generative models and everything around it.

The trainer knows the phases of a `Learner`, the evaluator knows `sample` of a `Family`, the service knows
`Condition`; none of them knows a family. What a family can do besides sampling is a `Protocol` below that it
implements or does not: callers ask with `isinstance`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from danqing.data.batch import Batch as Batch
from danqing.data.batch import Condition as Condition
from danqing.families.configuration import FamilyConfig as FamilyConfig
from danqing.families.configuration import ReadsText as ReadsText
from danqing.images import SizeRange


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of a phase, and what is logged.

    total: a scalar with a graph, which is minimised.
    logged: detached scalars, whose averages are written to the log.
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
    """

    name: str
    modules: tuple[str, ...]
    repeats: int = 1
    learning_rate_scale: float = 1.0


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

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        """Return what goes wrong so far.

        logged: the latest averages of the log.
        """
        return []

    def on_progress(self, images: int) -> None:
        """Prepare for the next training step, for warm-ups.

        images: how many have been seen; the state must follow from this number alone.
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


@runtime_checkable
class SamplesSizes(Protocol):
    """A family that samples images of other sizes than its own.

    Its `sample` takes `size: tuple[int, int] | None`, a (width, height) of these sizes.
    """

    @property
    def sizes(self) -> SizeRange:
        """Return which sizes these are."""
        ...


@runtime_checkable
class SamplesSeamless(Protocol):
    """A family that samples textures whose opposite edges fit together.

    Its `sample` takes `seamless`, an option: "none", "x", "y" or "both".
    """

    def check_seamless(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if an image of this (width, height) cannot be seamless."""
        ...


Preview = Callable[[], Tensor]
OnStep = Callable[[int, int, Preview], None]
"""A function that is called after each step, with the steps done, the steps in all, and a function that
returns the images so far, `[n, c, h, w]` in [-1, 1]. To stop sampling, it raises an exception of its own.
"""


@runtime_checkable
class PaintsInSteps(Protocol):
    """A family whose `sample` takes many steps.

    It takes `on_step: OnStep | None` among its options.
    """

    def painting_steps(self, **options: Any) -> int:
        """Return how many steps `sample` takes with some options."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A family that maps images into a latent space and back.

    Images are `[n, c, h, w]` in [-1, 1].
    """

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """Encode images as their most likely latents `[n, ...]`."""
        ...

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Decode latents as images."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """A family that interpolates between images."""

    def interpolate(self, first: Tensor, second: Tensor, condition: Condition, *, steps: int) -> Tensor:
        """Interpolate from each image to its partner.

        first, second: images `[n, c, h, w]`.
        Returns images `[n, steps, c, h, w]`, both ends included.
        """
        ...


@runtime_checkable
class Traverses(Protocol):
    """A family whose latents can be changed one by one."""

    def traverse(
        self, images: Tensor, condition: Condition, *, latent: int, values: Sequence[float]
    ) -> Tensor:
        """Set one latent of each image to each of some values.

        latent: its number, from 0. values: in standard deviations.
        Returns images `[n, len(values), c, h, w]`.
        """
        ...


@runtime_checkable
class Tokenizes(Protocol):
    """A tokenizer: turns images into whole numbers, the codes, and back.

    It is the first stage of a family that writes codes. Codes are int64 `[n, rows, columns, depth]` in [0,
    vocabulary); `depth` codes stand at each place, in the order in which they are written (the stages of a
    residual quantizer, the channels of a pixel). Images are `[n, c, h, w]` in [-1, 1].
    """

    @property
    def vocabulary(self) -> int:
        """Return how many different codes there are."""
        ...

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Return (rows, columns, depth)."""
        ...

    def tokenize(self, images: Tensor) -> Tensor:
        """Turn images into codes, without gradients."""
        ...

    def detokenize(self, codes: Tensor) -> Tensor:
        """Turn codes into images."""
        ...


@runtime_checkable
class Compresses(Protocol):
    """A tokenizer of real numbers: turns images into latents and back.

    It is the first stage of a family that generates latents, small images `[n, channels, rows, columns]` of
    any scale. Images are `[n, c, h, w]` in [-1, 1].
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns)."""
        ...

    def compress(self, images: Tensor) -> Tensor:
        """Turn images into latents, without gradients."""
        ...

    def expand(self, latents: Tensor) -> Tensor:
        """Turn latents into images."""
        ...


class HasTokenizer:
    """A family of two stages, which it declares by inheriting this.

    Its child `tokenizer` was trained before it and never changes. The family learns from `Batch.codes` where
    the batch has them, else from what the tokenizer makes of the images.
    reads: the protocol of its tokenizer, `Tokenizes` or `Compresses`.
    (A class and not a Protocol: from Python 3.12 on, no Protocol finds the children of an nn.Module.)
    """

    reads: ClassVar[type] = Tokenizes
    tokenizer: nn.Module


class HasGuide:
    """A family that keeps an early copy of its network.

    Guidance leads away from the copy. A family says so by inheriting this. Its child `guide` is trained by no
    phase. It is copied once, from the average of the weights, after a share of the run; the buffer
    `guide_taken` says whether that has happened, so that a resumed run knows.
    (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself".)
    """

    GUIDE_SHARE: ClassVar[float] = 1 / 8

    network: nn.Module
    guide: nn.Module | None
    guide_taken: Tensor

    def take_guide(self, average: "HasGuide") -> None:
        """Copy the network of the average to the guide."""
        if self.guide is not None:
            self.guide.load_state_dict(average.network.state_dict())
            self.guide_taken.fill_(True)


class Grows:
    """A family whose networks can grow.

    A family says so by inheriting this. If its configuration has `grow`, the images of a batch have one of
    those sizes, and the loss uses the part of the networks that belongs to it. The buffer `level` says how
    often the images of the last step were halved, so that a model samples what it has learned.
    """

    level: Tensor

    def starts_at(self, name: str) -> int:
        """Return at which size a parameter begins to learn.

        It is a place in `config.grow`. A buffer has a size too.
        name: as in `state_dict()`.
        """
        raise NotImplementedError


@runtime_checkable
class Fills(Protocol):
    """A family that samples a part of an image."""

    def fill(
        self, images: Tensor, mask: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Sample the part of each image that a mask covers.

        images: `[n, c, h, w]`. mask: `[n, 1, h, w]`, 1 where to sample; elsewhere images stay exactly as they
            are.
        Image i depends on row i and `seeds[i]` alone.
        """
        ...


@runtime_checkable
class Varies(Protocol):
    """A family that samples images like a given one."""

    def vary(
        self, images: Tensor, condition: Condition, *, seeds: Sequence[int], strength: float, **options: Any
    ) -> Tensor:
        """Sample a variation of each image, `[n, c, h, w]`.

        Image i depends on row i and `seeds[i]` alone.
        strength: from 0, which returns each image as the family encodes it, to 1, which keeps nothing of it:
            the images are those that `sample` gives for these seeds.
        options: those of `sample`; a family whose `vary` has none of them leaves them out of its signature.
        """
        ...


@runtime_checkable
class Translates(Protocol):
    """A family that learned from pairs to translate images."""

    def translate(
        self, source: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Turn source images `[n, c, h, w]` into the images that belong to them.

        Image i depends on row i and `seeds[i]` alone.
        options: those of `sample`.
        """
        ...


@runtime_checkable
class Perceives(Protocol):
    """A family whose loss uses the features of another network.

    perceptual_network: its name, as `evaluation.networks.open_network` takes it; "" where there is none.
    `perceive` is called once before training, with a function that turns images into that network's feature
    maps, with gradients. The function must not become a child, which would be saved and averaged.
    """

    perceptual_network: str

    def perceive(self, stages: Callable[[Tensor], Sequence[Tensor]]) -> None: ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A family that bounds or computes the probability of an image."""

    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """Compute the bits per dimension of each image, `[n]`.

        An upper bound tightens with `samples`.
        """
        ...


@runtime_checkable
class HasTokenLikelihood(Protocol):
    """A family that computes the probability of an image's codes.

    It says nothing about what the tokenizer lost.
    """

    def token_nll(self, batch: Batch) -> Tensor:
        """Compute -log p(codes | condition) in nats per image, `[n]` float32."""
        ...


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers, wherever they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def nats_to_bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Turn a negative log-likelihood in nats per image into bits per dimension."""
    return nats / (dimensions * math.log(2))
