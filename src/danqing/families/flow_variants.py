"""The variants of a flow model: of pixels, of latents, of pairs and of few steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from danqing import samplers
from danqing.errors import ConfigError
from danqing.families.abilities import OnStep
from danqing.families.back_projection import projected
from danqing.families.base import Batch, Condition, Learner
from danqing.families.few_steps import FewStepFlow, FewStepLatentFlow
from danqing.families.flow import FlowConfig as FlowConfig
from danqing.families.flow_editing import InvertibleFlow, LatentEditor
from danqing.families.flow_sampling import FlowSampler
from danqing.families.ode_likelihood import bits_per_dim
from danqing.families.seamless import check_sides
from danqing.sizes import SizeRange


class SizedFlow(InvertibleFlow):
    """A flow model that samples other sizes and seamless images."""

    def sample_defaults(self) -> Mapping[str, Any]:
        return {**super().sample_defaults(), "seamless": "none"}

    @property
    def _multiple(self) -> int:
        """Return the multiple of pixels to which nothing is padded."""
        return self.codec.factor * self._network(guide=False).multiple

    @property
    def sizes(self) -> SizeRange:
        """Return its own sizes, and others of half to twice their area."""
        own = self.config.sizes or ((self.config.width, self.config.height),)
        areas = [width * height for width, height in own]
        return SizeRange(own, self._multiple, min(areas) // 2, 2 * max(areas))

    def check_seamless(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if an image of this (width, height) would be padded."""
        check_sides(size, self._multiple)

    def _velocity(
        self, condition: Condition, shape: Sequence[int], chosen: Mapping[str, Any], *, level: int = 0
    ) -> samplers.Velocity:
        if chosen["seamless"] != "none":
            self.check_seamless((self.codec.factor * shape[3], self.codec.factor * shape[2]))
            if chosen["sampler"] == "adaptive":  # its steps would shrink without end, and depend on the batch
                raise ConfigError(
                    "The adaptive sampler cannot follow a seamless image, which is moved at each evaluation: "
                    "choose another sampler, such as ab2.",
                    "sampler",
                )
        return super()._velocity(condition, shape, chosen, level=level)


class Flow(SizedFlow):
    """A flow model of pixels, with likelihoods."""

    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """Return an upper bound on bits per dimension, `[n]` float32.

        samples: draws of the noise within a level and of the probes, averaged.
        """
        with torch.inference_mode(mode=False), torch.no_grad():
            present = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
            given = self.given(batch.condition, present, batch.images.shape[-2:])
            return bits_per_dim(lambda z, t: self.velocity(z, t, given), batch.images, rng, samples=samples)


class LatentFlow(LatentEditor, SizedFlow):
    """A flow model of latents."""


class FlowTranslator(FlowSampler):
    """A flow model of pairs, which translates source images."""

    has_prior: ClassVar[bool] = False

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return the shape of the noise of an image."""
        width, height = (side * self.config.source_scale for side in self.config.source_size)
        return self.config.channels, height, width

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        size: tuple[int, int] | None = None,
        noise: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Carry the noisy source image of a condition to its target.

        The images are `source_scale` times as large as their sources, and average to them if those of the
        training images did.
        options: as of `FlowSampler.sample`.
        """
        source, scale = condition.image, self.config.source_scale
        if source is not None:
            size = (scale * source.shape[3], scale * source.shape[2])
        images = super().sample(condition, seeds=seeds, on_step=on_step, size=size, noise=noise, **options)
        if source is None or not self.config.source_is_average:
            return images
        return projected(images, source, scale)

    def translate(
        self,
        source: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Turn source images `[n, c, h, w]` into the images that they belong to.

        options: as of `sample`.
        """
        condition = replace(condition, image=source)
        return self.sample(condition, seeds=seeds, noise=noise, on_step=on_step, **options)


class FlowFamily(FlowSampler):
    """A flow model of any variant."""

    @classmethod
    def variants(cls) -> Mapping[str, type[Learner]]:
        return {
            "flow model of pairs": FlowTranslator,
            "flow model of few steps": FewStepFlow,
            "latent flow model of few steps": FewStepLatentFlow,
            "": Flow,
            "latent flow model": LatentFlow,
        }

    @classmethod
    def variant(cls, config: FlowConfig) -> type[Learner]:
        if config.pairs:
            return FlowTranslator
        if config.objective == "solution":
            return FewStepFlow if config.tokenizer is None else FewStepLatentFlow
        return Flow if config.tokenizer is None else LatentFlow
