"""How a pipeline learns: the loss of its denoiser, with what its other networks make of images and texts.

Those networks do not change, so each text and each image is encoded once.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families.base import Batch, Family, Losses, Phase
from danqing.pipelines.denoising import Denoising, Posterior, Text, denoising_of

_MOST_BYTES = 2 * 2**30
_V = TypeVar("_V")


class Encoded:
    """What was encoded so far, which all copies of a learner share.

    The oldest is dropped when it is much.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, int]] = {}
        self._bytes = 0

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def of(self, key: Any, encode: Callable[[], _V], size: Callable[[_V], int]) -> _V:
        """Return what a key stands for, encoded if it is not known.

        size: returns its bytes.
        """
        if key not in self._kept:
            found = encode()
            self._kept[key] = (found, size(found))
            self._bytes += self._kept[key][1]
            while self._bytes > _MOST_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.pop(next(iter(self._kept)))[1]
        kept: _V = self._kept[key][0]
        return kept


class LearningPipeline(Family):
    """The part of a pipeline that is fine-tuned."""

    networks: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.encoded = Encoded()

    @property
    def pipe(self) -> Any:
        """Return the pipeline of `diffusers`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Set the mode of sampling, whatever is requested.

        No network of a pipeline drops anything at random.
        """
        return super().train(False)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoiser", ("networks",)),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        denoising = denoising_of(self.pipe)
        latents = self._latents(denoising, batch.images, rng)
        texts = [self._text(denoising, text) for text in batch.condition.text or ("",) * len(batch)]
        size = latents.shape[2], latents.shape[3]
        times = denoising.draw_times(len(latents), size, rng)
        noise = torch.randn(latents.shape, generator=rng, device=rng.device)
        return Losses(denoising.errors(latents, noise, times, texts).mean())

    def _text(self, denoising: Denoising, text: str) -> Text:
        def size(found: Text) -> int:
            return sum(tensor.nbytes for tensor in found.values())

        return self.encoded.of(text, lambda: denoising.encode_text(text), size)

    def _latents(self, denoising: Denoising, images: Tensor, rng: torch.Generator) -> Tensor:
        """Draw latents of images `[n, 3, h, w]`; the same image is encoded once."""
        if images.shape[1] != 3:
            raise ConfigError("A pipeline learns from images with 3 channels: add --set data.channels=3.")

        def size(found: Posterior) -> int:
            return found.mean.nbytes + found.deviation.nbytes

        def posterior(image: Tensor) -> Posterior:
            pixels = hashlib.blake2b(image.cpu().contiguous().numpy().data, digest_size=16)
            key = (*image.shape, pixels.digest())
            return self.encoded.of(key, lambda: denoising.encode_images(image[None]), size)

        found = [posterior(image) for image in images]
        mean, deviation = (torch.cat([one[part] for one in found]).to(images.device) for part in (0, 1))
        noise = torch.randn(mean.shape, generator=rng, device=rng.device)
        return Posterior(mean, deviation).sample(noise)
