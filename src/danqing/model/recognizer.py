"""A trained learner that recognizes images, ready to answer for images of any size."""

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.errors import ConfigError, ModelError
from danqing.families import cannot, display_name
from danqing.families.base import Family, Learner
from danqing.image_files.levels import Range
from danqing.images import Images, to_float
from danqing.learners.abilities import Classifies, Detection, Detects, Embeds, Segments
from danqing.learners.generative import GenerativeClassifier
from danqing.learners.probabilities import probabilities
from danqing.model import folder as model_folder
from danqing.model import reading
from danqing.model.card import describe
from danqing.model.loading import HasModel, Signers, access_of, open_source
from danqing.model.model import Model
from danqing.precision import choose_device

Pixels = Images | NDArray[Any] | Tensor
"""`Images`; uint8 or uint16 `[n, h, w, c]` of any size; or floats `[n, c, h, w]` in [-1, 1], as the learner
takes them."""
AT_ONCE = 64
"""Images that are computed at once. An image has the same answer in every batch, up to rounding."""


class Recognizer:
    """A learner of recognition with trained weights, ready to answer.

    learner: in eval mode, without gradients of its weights.
    facts: what is known of its training, as in `config.json`.
    origin: the folder that it was read from; None if it was not.
    """

    def __init__(
        self, learner: Learner, facts: Mapping[str, Any] | None = None, origin: Path | None = None
    ) -> None:
        self.learner = learner.eval().requires_grad_(False)
        self.facts = dict(facts or {})
        self.origin = origin

    def __repr__(self) -> str:
        c = self.learner.config
        return f"Recognizer({c.family}, {c.width}x{c.height}x{c.channels})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of logits.

        Raises ModelError if it has none.
        """
        if isinstance(self.learner, Classifies | Segments | Detects):
            return self.learner.classes
        raise self._cannot("name classes", Classifies)

    @property
    def is_multi_label(self) -> bool:
        """Return whether an image may have several labels."""
        return isinstance(self.learner, Classifies) and self.learner.is_multi_label

    @property
    def temperature(self) -> float:
        """Return what logits are divided by, so that probabilities are calibrated."""
        found = float(self.facts.get("temperature", 1.0))
        return found if 0 < found < math.inf else 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Return the (width, height) of the images that it learned from."""
        return self.learner.config.width, self.learner.config.height

    @property
    def value_range(self) -> Range | None:
        """Return the (low, high) that are black and white.

        None where the training images had no more than 8 bits.
        """
        return reading.value_range(self.facts)

    @property
    def device(self) -> torch.device:
        """Return where its weights are."""
        return next(self.learner.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device; returns self."""
        self.learner.to(device)
        return self

    def reading(self) -> dict[str, Any]:
        """Return the options of `image_files.decode` that it was trained with."""
        return reading.reading(self.facts, self.size, self.learner.config.channels)

    def inputs(self, images: Pixels) -> Tensor:
        """Prepare images as the learner takes them, on its device.

        Returns float32 `[n, c, h, w]` in [-1, 1].
        Raises ConfigError for an array that does not hold images, and for floats of another shape.
        """
        config = self.learner.config
        if isinstance(images, Tensor) and images.is_floating_point():
            expected = (config.channels, config.height, config.width)
            if images.dim() != 4 or tuple(images.shape[1:]) != expected:
                raise ConfigError(
                    f"Floats must have the shape [n, {', '.join(map(str, expected))}], and these have "
                    f"{list(images.shape)}: give uint8 images of any size instead."
                )
            return images.to(self.device)
        array = reading.as_read(np.asarray(images) if isinstance(images, Tensor) else images, self.reading())
        return to_float(torch.from_numpy(array)).to(self.device)

    def logits(self, images: Pixels) -> Tensor:
        """Compute the logits of each class, `[n, k]` float32 on the CPU.

        They are not divided by the temperature. Raises ModelError if it does not classify.
        """
        learner = self.learner
        if not isinstance(learner, Classifies):
            raise self._cannot("classify images", Classifies)
        return torch.cat([learner.logits(part).float().cpu() for part in self._parts(images)])

    def probabilities(self, images: Pixels) -> Tensor:
        """Compute the calibrated probability of each class, `[n, k]` float32 on the CPU.

        They add up to 1 for each image, unless it may have several labels.
        """
        return self.probabilities_of(self.logits(images))

    def probabilities_of(self, logits: Tensor) -> Tensor:
        """Turn logits, as `logits` returns them, into calibrated probabilities."""
        return probabilities(logits, self.temperature, is_multi_label=self.is_multi_label)

    def embed(self, images: Pixels) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32 on the CPU, not normalized."""
        learner = self.learner
        if not isinstance(learner, Embeds):
            raise self._cannot("turn images into vectors", Embeds)
        return torch.cat([learner.embed(part).float().cpu() for part in self._parts(images)])

    def masks(self, images: Pixels) -> Tensor:
        """Return the class of each pixel, `[n, h, w]` uint8 on the CPU.

        They have the size of the learner.
        """
        learner = self.learner
        if not isinstance(learner, Segments):
            raise self._cannot("segment images", Segments)
        return torch.cat([learner.mask_logits(part).argmax(1).byte().cpu() for part in self._parts(images)])

    def detect(self, images: Pixels, *, threshold: float = 0.3) -> list[Detection]:
        """Find the objects in each image.

        Boxes are in pixels of the learner's size.
        threshold: the lowest score that is reported.
        """
        learner = self.learner
        if not isinstance(learner, Detects):
            raise self._cannot("detect objects", Detects)
        return [one for part in self._parts(images) for one in learner.detect(part, threshold=threshold)]

    def info(self) -> dict[str, Any]:
        """Describe the learner as plain values."""
        return describe(self.learner, self.facts)

    def save(self, folder: str | Path) -> Path:
        """Write the model folder; returns its path.

        Scores that belong to these weights are kept.
        """
        learner = copy.deepcopy(self.learner)
        learner.drop_training_only()
        return model_folder.write(Path(folder), learner, self.facts, self.info(), origin=self.origin)

    def _parts(self, images: Pixels) -> Iterator[Tensor]:
        """The inputs, some at a time and without gradients."""
        inputs = self.inputs(images)
        if not len(inputs):
            raise ConfigError("There are no images to recognize: give at least one.")
        with torch.no_grad():
            yield from inputs.split(AT_ONCE)

    def _cannot(self, ability: str, protocol: type) -> ModelError:
        return ModelError(cannot(self.learner.config, ability, protocol))


def load_recognizer(
    source: str | Path | HasModel,
    *,
    device: str = "cpu",
    revision: str | None = None,
    require: Signers = (),
    key: str | Path | None = None,
    passphrase: str | None = None,
) -> Recognizer:
    """Load a recognizer from a folder, run, sealed file or the hub.

    device: auto, cpu, cuda or mps. The other arguments are those of `danqing.load`.
    A generative model with labels recognizes by its likelihoods (`learners/generative.py`), which takes one
    evaluation of its network for each label or more.
    Nothing in the source is executed. Raises ModelError with the reason where it cannot be trusted or read,
    and where it samples images and cannot tell labels apart.
    """
    found = open_trained(
        source, device=device, revision=revision, require=require, key=key, passphrase=passphrase
    )
    if isinstance(found, Recognizer):
        return found
    return Recognizer(_by_likelihood(found.family, source), found.facts, found.origin)


def open_trained(
    source: str | Path | HasModel,
    *,
    device: str = "cpu",
    revision: str | None = None,
    require: Signers = (),
    key: str | Path | None = None,
    passphrase: str | None = None,
) -> Model | Recognizer:
    """Load a model that samples images, or a recognizer.

    Arguments and errors are those of `load_recognizer`, and "demo" is the model that comes with the package.
    """
    files = open_source(source, revision, access_of(require, key, passphrase))
    learner, facts = model_folder.read_learner(files)
    if not isinstance(learner, Family):
        return Recognizer(learner, facts, files.folder).to(choose_device(device))
    model = Model(learner, facts).to(choose_device(device))
    model.origin = files.folder
    return model


def _by_likelihood(family: Family, source: object) -> Learner:
    """Return a generative model as a classifier; raise ModelError where it is none."""
    try:
        return GenerativeClassifier(family)
    except ConfigError as error:
        name = display_name(family.config.family)
        raise ModelError(
            f"{source} holds a {name}, which samples images and does not recognize them: train a model with "
            f"--task classify. {error}"
        ) from error
