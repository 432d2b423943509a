"""The contract between a family of generative models and everything around it.

The trainer knows the phases of a `Learner`, the evaluator knows `sample` of a `Family`, the service knows
`Condition`; none knows a family.
What a family can do beyond painting is a `Protocol` below that it implements or does not: callers ask with
`isinstance`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from danqing.data.batch import Batch as Batch
from danqing.data.batch import Condition as Condition


@dataclass(frozen=True, slots=True)
class Losses:
    """`total` is minimised (a scalar with a graph); the detached scalars in `logged` are averaged into the
    log.
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

    modules: names of the family's direct children whose parameters this phase trains; all others are frozen
    meanwhile. repeats: optimiser steps of this phase in one training step, each on a fresh batch.
    learning_rate_scale: multiplies the configured learning rate for this phase.
    """

    name: str
    modules: tuple[str, ...]
    repeats: int = 1
    learning_rate_scale: float = 1.0


class FamilyConfig(BaseModel):
    """What every family needs to know of its images; `labels` are the class names, empty when unconditional.

    A preset leaves out what `from_data` names: it is filled in from the data. `conditional=False` ignores
    labels and captions that the data has. captions: some of those learnt from, evenly drawn, where the model
    reads text: they are painted where no prompt is given. label_captions: of each label, those that all of
    its images have, one to a line: what it may be called too.
    """

    display_name: ClassVar[str] = ""
    """What people call it in a sentence; empty where that is its `family`."""
    from_data: ClassVar[frozenset[str]] = frozenset(
        {
            "family",
            "width",
            "height",
            "channels",
            "labels",
            "label_frequencies",
            "label_captions",
            "captions",
        }
    )

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    width: int = Field(32, ge=4, le=4096)
    height: int = Field(32, ge=4, le=4096)
    channels: int = Field(3, ge=1, le=4)
    conditional: bool = True
    labels: tuple[str, ...] = ()
    label_frequencies: tuple[float, ...] = ()
    label_captions: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _labels_have_frequencies(self) -> Self:
        if self.label_frequencies and len(self.label_frequencies) != len(self.labels):
            raise ValueError("label_frequencies must have one value per label")
        if self.label_frequencies and not (min(self.label_frequencies) >= 0 < sum(self.label_frequencies)):
            raise ValueError("label_frequencies must not be negative, nor all be zero")
        if self.label_captions and len(self.label_captions) != len(self.labels):
            raise ValueError("label_captions must have one text per label")
        return self

    @property
    def dimensions(self) -> int:
        """Values in one image: the d of bits per dimension."""
        return self.width * self.height * self.channels

    @property
    def reads_labels(self) -> bool:
        """Whether the model is told the label of an image, where the data has labels."""
        return self.conditional

    @property
    def reads_text(self) -> bool:
        """Whether the model is told the caption of an image: it then cannot learn without captions."""
        return False

    @property
    def reads_attributes(self) -> bool:
        """Whether the model learns from the attributes of an image (`data.attributes`)."""
        return False

    @property
    def reads_source(self) -> bool:
        """Whether the model learns to make an image from the source image of a pair (`data.pairs`)."""
        return False

    @property
    def noise_chooses_images(self) -> bool:
        """Whether a step learns from noise and the images that belong to it (`transport`), in `Batch.noise`.

        Then an image is seen about once in every epoch, and not exactly once.
        """
        return False

    def complete(self, captions: Sequence[str]) -> Self:
        """The configuration with what a family itself takes from the captions of the training images, such as
        the vocabulary of its text; called once, after the shape has been filled in.
        """
        return self


class Learner(nn.Module):
    """A network that a run trains, resumes and saves: configuration, phases and loss.

    Randomness comes only from the generator or the seeds passed in, never from torch's global state, so that
    a resumed run repeats an uninterrupted one bit for bit.
    """

    training_only: ClassVar[tuple[str, ...]] = ()
    """Direct children that a trained model does not need (a discriminator): kept out of the EMA and the model
    folder.
    """

    config: FamilyConfig

    def phases(self) -> tuple[Phase, ...]:
        """The optimiser turns of one training step, in order."""
        raise NotImplementedError

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """The loss of `phase` on `batch`; `rng` lives on the batch's device."""
        raise NotImplementedError

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        """Return what goes wrong by now.

        logged: the latest averages of the log.
        """
        return []

    def on_progress(self, images: int) -> None:
        """Prepare for the next training step, for warm-ups; the state must follow from `images` alone.

        images: how many have been seen.
        """

    def drop_training_only(self) -> None:
        """Remove the children that a trained model does not need."""
        for name in self.training_only:
            setattr(self, name, None)


class Family(Learner):
    """A generative model: a learner that also samples images."""

    has_prior: ClassVar[bool] = True
    """False where `sample` paints from codes drawn at random, because the family is a first stage: it is then
    shown and scored by its reconstructions.
    """

    chunk: ClassVar[int] = 16
    """Images computed at once. Always as many, the last chunk padded: a matrix product of another size may
    round otherwise, and a picture must not depend on how many others were asked for.
    """

    advice_on_collapse: ClassVar[str] = "lower optimizer.learning_rate"
    """What to change when the samples are all alike, as the end of a sentence."""

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        """Paint one image per seed: `[n, c, h, w]`, float32 in [-1, 1].

        Image i depends on `seeds[i]` and row i of `condition` alone. The caller sets eval mode and no-grad,
        and gives a label for every image where the family has labels.
        """
        raise NotImplementedError

    def sample_defaults(self) -> Mapping[str, Any]:
        """Those options of `sample` whose default is not in its signature, for it follows from the
        configuration.
        """
        return {}

    def sampling_bytes(self) -> int:
        """Return the bytes of memory that sampling holds between calls: weights, buffers and their caches."""
        return bytes_of(self)


Preview = Callable[[], Tensor]
OnStep = Callable[[int, int, Preview], None]
"""Told while a family paints step by step: steps done, steps in all, and what gives the images as they are by
then, `[n, c, h, w]` in [-1, 1]. Whoever wants to stop the painting raises an exception of their own.
"""


@runtime_checkable
class PaintsInSteps(Protocol):
    """A family whose `sample` takes many steps, and takes `on_step: OnStep | None` among its options."""

    def painting_steps(self, **options: Any) -> int:
        """How many steps `sample` takes with these options."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A family with a latent space that images can be mapped into and back. Images are `[n, c, h, w]` in
    [-1, 1].
    """

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """Images to their most likely latents `[n, ...]`."""
        ...

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents to images."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """A family whose latent space has a way from one image to another."""

    def interpolate(self, first: Tensor, second: Tensor, condition: Condition, *, steps: int) -> Tensor:
        """Images `[n, steps, c, h, w]` on the way from each of `first` to its partner, ends included."""
        ...


@runtime_checkable
class Traverses(Protocol):
    """A family whose latents can be moved one by one."""

    def traverse(
        self, images: Tensor, condition: Condition, *, latent: int, values: Sequence[float]
    ) -> Tensor:
        """Images `[n, len(values), c, h, w]` with one latent set to each value, in standard deviations."""
        ...


@runtime_checkable
class Tokenizes(Protocol):
    """What turns images into whole numbers and back: the first stage of a family that writes tokens.

    Codes are int64 `[n, rows, columns, depth]` in [0, vocabulary); `depth` numbers stand at each place, in
    the order in which they are to be written (the stages of a residual quantizer, the channels of a pixel).
    Images are `[n, c, h, w]` in [-1, 1].
    """

    @property
    def vocabulary(self) -> int:
        """How many different codes there are."""
        ...

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(rows, columns, depth)."""
        ...

    def tokenize(self, images: Tensor) -> Tensor:
        """Images to codes, without gradients."""
        ...

    def detokenize(self, codes: Tensor) -> Tensor:
        """Codes to images."""
        ...


class HasTokenizer:
    """A family of two stages says so by inheriting this: its child `tokenizer` was trained before it and
    never changes. (From Python 3.12 on, no Protocol finds the children of an nn.Module.)

    It learns from `Batch.codes` where the batch has them, else from what the tokenizer makes of the images.
    """

    tokenizer: nn.Module


@runtime_checkable
class Fills(Protocol):
    """A family that can paint a part of an image so that it suits the rest."""

    def fill(
        self, images: Tensor, mask: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Images `[n, c, h, w]`, painted anew where `mask` `[n, 1, h, w]` is 1 and exactly as they were
        elsewhere; image i depends on row i and `seeds[i]` alone.
        """
        ...


@runtime_checkable
class Varies(Protocol):
    """A family that can paint images like a given one."""

    def vary(
        self, images: Tensor, condition: Condition, *, seeds: Sequence[int], strength: float, **options: Any
    ) -> Tensor:
        """Images like `images` `[n, c, h, w]`; image i depends on row i and `seeds[i]` alone.

        strength: from 0, where each comes back as the family encodes it, to 1, where nothing is left of it
        and the images are those that `sample` paints from these seeds. options: those of `sample`; a family
        whose `vary` has none of them leaves them out of its signature.
        """
        ...


@runtime_checkable
class Perceives(Protocol):
    """A family with a loss in the features of a network that it does not own.

    perceptual_network: its name, as `evaluation.networks.open_network` takes it; "" where there is none.
    `perceive` is given what turns images into that network's feature maps, with gradients, once before
    training; it must not become a child, which would be saved and averaged.
    """

    perceptual_network: str

    def perceive(self, stages: Callable[[Tensor], Sequence[Tensor]]) -> None: ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A family that can bound or compute the probability of an image."""

    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """Bits per dimension of each image `[n]`, an upper bound that tightens with `samples` where it is a
        bound.
        """
        ...


@runtime_checkable
class HasTokenLikelihood(Protocol):
    """A family that computes the probability of an image's codes, which says nothing of what its tokenizer
    lost.
    """

    def token_nll(self, batch: Batch) -> Tensor:
        """-log p(codes | condition) in nats per image, `[n]` float32."""
        ...


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers, wherever they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def nats_to_bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Negative log-likelihood in nats per image to bits per dimension."""
    return nats / (dimensions * math.log(2))
