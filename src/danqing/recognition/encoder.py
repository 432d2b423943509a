"""Which network turns images into vectors: a feature network, or any of our models that can."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing import weights
from danqing.errors import ConfigError
from danqing.evaluation.candidate import is_model
from danqing.evaluation.networks import open_network
from danqing.evaluation.networks.batched import TorchNetwork
from danqing.families import alternatives, display_name
from danqing.families.abilities import Compresses, Encodes, HasTokenizer
from danqing.families.base import Condition, FamilyConfig, Learner
from danqing.images import to_float, with_channels
from danqing.learners.abilities import Embeds
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer, open_trained
from danqing.precision import choose_device

PLACES = 4
"""Latents with more places a side are averaged to as many, so that vectors stay short."""
Describe = Callable[[Tensor], Tensor]
"""Turns images `[n, c, h, w]` in [-1, 1] into vectors `[n, d]`."""


class Encoder(Protocol):
    """Turns images into vectors that are compared by their angle.

    name: under which `open_encoder` opens it again. sha256: of its weights, in hexadecimal.
    """

    name: str
    sha256: str
    dimensions: int

    def features(self, images: Tensor) -> Tensor:
        """Return vectors float32 `[n, dimensions]` of images, uint8 `[n, h, w, c]`."""
        ...


def open_encoder(
    source: str | Path | Model | Recognizer = "auto", *, device: torch.device | str = "cpu"
) -> Encoder:
    """Open an encoder: a feature network by its name, or a trained model.

    source: a name that `evaluation.networks.open_network` takes; a model folder, a run folder or a hub
        repository; or a model that is open. The vectors of a model that recognizes are its embeddings, those
        of one that samples its latents, averaged to `PLACES` a side.
    Raises EvaluationError or ModelError where it is not available, and ConfigError where it encodes nothing.
    """
    if isinstance(source, Model | Recognizer):
        return ModelEncoder(source, f"{source.origin or _learner(source).config.family}")
    if is_model(Path(source)):
        return ModelEncoder(open_trained(source, device=str(device)), str(source))
    return open_network(source, device=device if isinstance(device, torch.device) else choose_device(device))


def own_form(encoder: Encoder) -> tuple[tuple[int, int] | None, int]:
    """Return the size (width, height) and the channels that an encoder takes.

    None and 0 where it takes any.
    """
    if not isinstance(encoder, ModelEncoder):
        return None, 0
    return (encoder.config.width, encoder.config.height), encoder.config.channels


class ModelEncoder(TorchNetwork):
    """A trained model as an encoder. Images of another size are stretched to its own."""

    def __init__(self, model: Model | Recognizer, name: str) -> None:
        learner = _learner(model)
        config = learner.config
        self.config, self._describe = config, _describe(learner)
        super().__init__(
            learner,
            name=name,
            sha256=weights.digest(learner.state_dict()),
            resizer=f"antialiased bicubic to {config.width}x{config.height}",
            normalization="x / 127.5 - 1",
            dimensions=0,
            device=model.device,
        )
        blank = torch.zeros(1, config.height, config.width, config.channels, dtype=torch.uint8)
        self.dimensions = self.features(blank).shape[1]

    def _inputs(self, images: Tensor) -> Tensor:
        config = self.config
        pixels = with_channels(to_float(images), config.channels)
        if pixels.shape[2:] != (config.height, config.width):
            size = (config.height, config.width)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _vectors(self, inputs: Tensor) -> Tensor:
        return self._describe(inputs)


def _learner(model: Model | Recognizer) -> Learner:
    return model.family if isinstance(model, Model) else model.learner


def _describe(learner: Learner) -> Describe:
    """Return how a learner turns images into vectors; raises ConfigError where it cannot."""
    if isinstance(learner, Embeds):
        return learner.embed
    if isinstance(learner, Compresses):
        compressor = learner
        return lambda images: _pooled(compressor.compress(images))
    if isinstance(learner, Encodes):
        encoder, config = learner, learner.config
        return lambda images: _pooled(encoder.encode(images, _unknown(config, images)))
    if isinstance(learner, HasTokenizer) and isinstance(learner.tokenizer, Learner):
        return _describe(learner.tokenizer)
    name = display_name(learner.config.family)
    raise ConfigError(
        f"This {name} does not turn images into vectors: use {alternatives(Embeds)}, or a model with an "
        f"encoder, such as {alternatives(Encodes)}."
    )


def _unknown(config: FamilyConfig, images: Tensor) -> Condition:
    """Return the condition of images of which nothing is known."""
    if not config.labels:
        return Condition()
    return Condition(label=torch.full((len(images),), -1, device=images.device))


def _pooled(latents: Tensor) -> Tensor:
    """Turn latents `[n, d]` or `[n, c, rows, columns]` into vectors."""
    if latents.dim() == 4 and max(latents.shape[2:]) > PLACES:
        latents = F.adaptive_avg_pool2d(latents, PLACES)
    return latents.flatten(1)
