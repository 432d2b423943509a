"""What a model computes of given images: latents, reconstructions, interpolations and likelihoods."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import (
    Encodes,
    HasLikelihood,
    HasTokenLikelihood,
    Interpolates,
    Judges,
    Traverses,
    WeighsConditions,
)
from danqing.families.base import Batch, Condition
from danqing.images import Images, to_uint8
from danqing.model.chunks import frames_to_uint8, in_chunks, pixels_of
from danqing.model.conditions import given_condition
from danqing.model.provenance import Provenance
from danqing.randomness import generator
from danqing.requested import Label, Prompt
from danqing.requested_attributes import Attributes


class Analysis(Provenance):
    """The part of a `Model` that computes something of each given image.

    label, attributes: in every method, what each image shows, for all images or for each; attributes that are
        not given count as unknown.
    """

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.family.parameters()).device

    def encode(self, images: Images, label: Label = None, *, attributes: Attributes = None) -> Tensor:
        """Encode images as their most likely latents `[n, ...]`, on the CPU.

        Raises ConfigError where the family has no encoder, or the images are not of the model's size.
        """
        encoder = self._encoder()
        return self._per_image(encoder.encode, images, self._known(images, label, attributes=attributes))

    def decode(self, latents: Tensor, label: Label = None, *, attributes: Attributes = None) -> Images:
        """Decode latents `[n, ...]`; raises ConfigError where the family has no decoder."""
        encoder, condition = self._encoder(), self._known(latents, label, attributes=attributes)

        def decode(rows: list[int]) -> Tensor:
            return to_uint8(encoder.decode(latents[rows].to(self.device), condition(rows)))

        return Images(in_chunks(decode, len(latents), self.family.chunk), self.marking("decode"))

    def reconstruct(self, images: Images, label: Label = None, *, attributes: Attributes = None) -> Images:
        """Encode and decode images."""
        latents = self.encode(images, label, attributes=attributes)
        rebuilt = self.decode(latents, label, attributes=attributes)
        return Images(rebuilt.array, self.marking("reconstruct"))

    def interpolate(
        self,
        start: Images,
        end: Images,
        steps: int = 8,
        label: Label = None,
        *,
        attributes: Attributes = None,
    ) -> Images:
        """Interpolate from each image to its partner.

        Returns `steps` images for each pair, both ends included, one pair after another.
        Raises ConfigError where the family cannot, or where there are not as many ends as starts.
        """
        if steps < 2:
            raise ConfigError(f"An interpolation takes at least 2 steps, not {steps}.")
        if len(start) != len(end):
            raise ConfigError(f"Give an end for each start: there are {len(end)} for {len(start)}.")
        family, first, last = self.family, self._pixels(start), self._pixels(end)
        if not isinstance(family, Interpolates):
            raise self._cannot("interpolate between images", Interpolates)
        condition = self._known(start, label, attributes=attributes)

        def interpolate(rows: list[int]) -> Tensor:
            return frames_to_uint8(family.interpolate(first(rows), last(rows), condition(rows), steps=steps))

        frames = in_chunks(interpolate, len(start), family.chunk).flatten(0, 1)
        return Images(frames, self.marking("interpolate"))

    def traverse(
        self,
        images: Images,
        latent: int,
        values: Sequence[float] = (-2, -1, 0, 1, 2),
        label: Label = None,
        *,
        attributes: Attributes = None,
    ) -> Images:
        """Set one latent of each image to each of some values.

        latent: its number, from 0. values: in standard deviations.
        Returns the images of the first image, then those of the second, and so on.
        """
        family = self.family
        if not isinstance(family, Traverses):
            raise self._cannot("change latents one by one", Traverses)

        def traverse(pixels: Tensor, condition: Condition) -> Tensor:
            return frames_to_uint8(family.traverse(pixels, condition, latent=latent, values=values))

        condition = self._known(images, label, attributes=attributes)
        frames = self._per_image(traverse, images, condition).flatten(0, 1)
        return Images(frames, self.marking("traverse"))

    def bits_per_dim(
        self,
        images: Images,
        label: Label = None,
        *,
        prompt: Prompt = None,
        attributes: Attributes = None,
        samples: int = 1,
        seed: int = 0,
    ) -> Tensor:
        """Compute the bits per dimension of each image, `[n]` float32.

        They are an upper bound, which tightens with `samples`.
        prompt: of each image, for a model that reads text; None says nothing.
        Raises ConfigError where the family has no likelihood, or as `encode`.
        """
        family, pixels = self.family, self._pixels(images)
        if not isinstance(family, HasLikelihood):
            raise self._cannot("compute how likely an image is", HasLikelihood)
        condition = self._known(images, label, prompt, attributes)

        def bits(rows: list[int]) -> Tensor:
            rng = generator(seed, "bits per dim", rows[0], device=self.device)
            return family.bits_per_dim(Batch(pixels(rows), condition(rows)), rng, samples=samples)

        return in_chunks(bits, len(images), family.chunk)

    def token_nll(
        self, images: Images, label: Label = None, *, prompt: Prompt = None, attributes: Attributes = None
    ) -> Tensor:
        """Compute -log p of each image's codes in nats, `[n]` float32.

        prompt: as of `bits_per_dim`. Raises ConfigError where the family cannot, or as `encode`.
        """
        family = self.family
        if not isinstance(family, HasTokenLikelihood):
            raise self._cannot("compute how likely codes are", HasTokenLikelihood)

        def nll(pixels: Tensor, condition: Condition) -> Tensor:
            return family.token_nll(Batch(pixels, condition))

        return self._per_image(nll, images, self._known(images, label, prompt, attributes))

    def log_evidence(
        self,
        images: Images,
        label: Label = None,
        *,
        prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
    ) -> Tensor:
        """Estimate log p of each image up to a constant, `[n]`.

        It is in nats, float32. A family whose loss adds noise adds the same noise to all images.
        prompt: as of `bits_per_dim`. Raises ConfigError where the family cannot, or as `encode`.
        """
        family = self.family
        if not isinstance(family, WeighsConditions):
            raise self._cannot("compute how well it explains an image", WeighsConditions)
        samples = family.evidence_samples

        def evidence(pixels: Tensor, condition: Condition) -> Tensor:
            seeds = [seed] * len(pixels)
            return family.log_evidence(Batch(pixels, condition), seeds=seeds, samples=samples)

        return self._per_image(evidence, images, self._known(images, label, prompt, attributes))

    def realness(
        self, images: Images, label: Label = None, *, prompt: Prompt = None, attributes: Attributes = None
    ) -> Tensor:
        """Compute how real the discriminator finds each image, as logits `[n]` float32.

        The family needs its discriminator, which `danqing.model.training_only` reads.
        prompt: as of `bits_per_dim`. Raises ConfigError where the family has none, or as `encode`.
        """
        family = self.family
        if not isinstance(family, Judges):
            raise self._cannot("judge images", Judges)

        def judge(pixels: Tensor, condition: Condition) -> Tensor:
            return family.realness(Batch(pixels, condition))

        return self._per_image(judge, images, self._known(images, label, prompt, attributes))

    def _per_image(
        self,
        compute: Callable[[Tensor, Condition], Tensor],
        images: Images,
        condition: Callable[[list[int]], Condition],
    ) -> Tensor:
        """Compute something of each image, in chunks."""
        pixels = self._pixels(images)
        return in_chunks(lambda rows: compute(pixels(rows), condition(rows)), len(images), self.family.chunk)

    def _known(
        self, images: Images | Tensor, label: Label, prompt: Prompt = None, attributes: Attributes = None
    ) -> Callable[[list[int]], Condition]:
        condition = given_condition(self.family.config, len(images), label, prompt, attributes=attributes)
        return self._rows_of(condition)

    def _rows_of(self, condition: Condition) -> Callable[[list[int]], Condition]:
        return lambda rows: condition[rows].to(self.device)

    def _pixels(self, images: Images) -> Callable[[list[int]], Tensor]:
        return pixels_of(images, self.family.config, self.device)

    def _encoder(self) -> Encodes:
        if not isinstance(self.family, Encodes):
            raise self._cannot("encode images", Encodes)
        return self.family

    def _cannot(self, ability: str, protocol: type) -> ConfigError:
        return ConfigError(families.cannot(self.family.config, ability, protocol))
