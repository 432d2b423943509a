"""What a family can do besides sampling: each ability is a class that it implements or does not.

Callers check with `isinstance`; the registry says which families can do something.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from danqing.data.batch import Batch, Condition
from danqing.sizes import SizeRange
from danqing.trust.codes_mark import CodesDetection, CodesMark


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
class MeasuresText(Protocol):
    """A family that reads text by itself, without the encoders of `danqing.text`."""

    def measure(self, text: str) -> tuple[int, int]:
        """Return how many tokens a text has, and how many are read."""
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
class ComparesCodes(Protocol):
    """A tokenizer that knows which of its codes are similar."""

    def code_vectors(self) -> Tensor:
        """Return a vector of each code, float32 `[vocabulary, d]`.

        Similar codes have near vectors. The codes are the first ones of a place.
        """
        ...


@runtime_checkable
class Compresses(Protocol):
    """A tokenizer of real numbers: turns images into latents and back.

    It is the first stage of a family that generates latents, small images `[n, channels, rows, columns]` of
    any scale. Images are `[n, c, h, w]` in [-1, 1], of any size.
    """

    @property
    def factor(self) -> int:
        """Return the sides of a place of latents in pixels.

        The last row and column of places may reach beyond the image.
        """
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns) of images of its own size."""
        ...

    def compress(self, images: Tensor) -> Tensor:
        """Turn images into latents, without gradients."""
        ...

    def expand(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Turn latents into images.

        size: (width, height) of the images, by default its own.
        """
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
class MarksCodes(Protocol):
    """Marks images while it samples them.

    `sample`, `fill` and `vary` take a `mark`; None samples without one.
    """

    def detect_mark(self, images: Tensor, mark: CodesMark) -> list[CodesDetection]:
        """Return what is found of a mark in each image.

        images: `[n, c, h, w]` in [-1, 1].
        """
        ...


@runtime_checkable
class TakesNoise(Protocol):
    """A family that can be told the noise of each place.

    `fill`, `vary` and `translate` take `noise: Tensor | None`, standard normal values `[n, *noise_shape]`,
    instead of those that the seeds give. Windows of one large image thus share the noise where they overlap.
    """

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return (channels, rows, columns); rows and columns divide the image into equal places."""
        ...


@runtime_checkable
class Translates(Protocol):
    """A family that learned to turn source images into others.

    It learned from pairs or from two domains.
    """

    def translate(
        self, source: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Turn source images `[n, c, h, w]` into target images.

        Image i depends on row i and `seeds[i]` alone.
        options: those of `sample`.
        """
        ...


@runtime_checkable
class Relabels(Protocol):
    """A family that translates images from one label to another.

    It has not learned from pairs.
    """

    def relabel(
        self,
        images: Tensor,
        source: Condition,
        target: Condition,
        *,
        seeds: Sequence[int],
        strength: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """Turn images `[n, c, h, w]` that show one thing into images that show another.

        source: what they show. target: what they will show. Image i depends on row i and `seeds[i]` alone.
        strength: from 0, which returns each image as the family encodes it, to 1.
        options: those of `sample`.
        """
        ...


@runtime_checkable
class IsConvolutional(Protocol):
    """A family of convolutions alone, whose `translate` takes images of any size.

    receptive_radius: how many pixels of the source away a result may depend on, at most.
    stride: results move with the source where that moves by a multiple of this.
    """

    @property
    def receptive_radius(self) -> int: ...

    @property
    def stride(self) -> int: ...


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
class StartsTrained(Protocol):
    """A learner that may begin with weights that were trained elsewhere.

    `load_published` is called once, before training. A model that has been trained brings all its weights.
    """

    def load_published(self) -> None:
        """Take the published weights; raises EvaluationError if they are missing."""
        ...


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


@runtime_checkable
class WeighsConditions(Protocol):
    """A family that says how well a condition explains an image.

    Compared over all labels, this predicts the label of an image.
    """

    def log_evidence(self, batch: Batch, *, seeds: Sequence[int], samples: int = 1) -> Tensor:
        """Estimate log p(image | condition) in nats, `[n]` float32.

        A term that is the same for all conditions may be left out. Value i depends on row i and `seeds[i]`
        alone. Conditions that share a seed share its noise, so their differences are more exact than the
        values.
        samples: draws of the noise, each one evaluation of the network; a value that is exact needs one and
            ignores this.
        """
        ...

    @property
    def evidence_samples(self) -> int:
        """Return how many samples tell conditions apart well.

        It is 1 where the value is exact.
        """
        ...


@runtime_checkable
class Judges(Protocol):
    """A family whose discriminator says how real an image looks.

    The logit is high where an image looks real. A model folder does not hold the discriminator:
    `model.training_only` reads it from the run.
    """

    def realness(self, batch: Batch) -> Tensor:
        """Compute the mean logit of each image, `[n]`."""
        ...


@runtime_checkable
class DrawsFromNoise(Protocol):
    """A family that draws an image from one vector of noise.

    The noise is standard normal, and the image takes one evaluation.
    """

    @property
    def noise_size(self) -> int:
        """Return the length of a vector."""
        ...

    def from_noise(self, noise: Tensor, condition: Condition) -> Tensor:
        """Turn noise `[n, noise_size]` into images `[n, c, h, w]`, with gradients."""
        ...


@runtime_checkable
class AttendsToWords(Protocol):
    """A family whose networks attend to the tokens of a text."""

    def word_attention(self, images: Tensor, condition: Condition, *, seeds: Sequence[int]) -> Tensor:
        """Return how much places of images attend to tokens.

        The result is `[n, text length, rows, columns]`.

        images: `[n, c, h, w]` that show the texts of the condition. seeds: of noise that is added to them,
            where the family observes noisy images.
        """
        ...
