"""How flow models edit images: filling, variations, and inversion under another label."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing import samplers
from danqing.families import flow_inversion
from danqing.families.abilities import OnStep, Preview
from danqing.families.base import Batch, Condition
from danqing.families.denoising_nll import denoising_nll
from danqing.families.flow import FlowConfig as FlowConfig
from danqing.families.flow_sampling import FlowSampler
from danqing.images import mean_outside

FILLING_STEPS = 48
"""Of one evaluation each."""


class FlowEditor(FlowSampler):
    """A flow model that also fills and varies images."""

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return the shape of the noise of an image."""
        return self.codec.latent_shape

    def fill_defaults(self) -> Mapping[str, Any]:
        """Return the options of `fill` with their defaults.

        Each step adds fresh noise to the predicted image, if that suits the model, so that what is generated
        can still follow what is known around it: the purpose of resampling in Lugmayr et al. 2022, without
        its cost.
        """
        sampler = self._suitable("consistency")
        return {**self.sample_defaults(), "sampler": sampler, "num_steps": FILLING_STEPS}

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate what `mask` covers so that it suits the rest.

        Known pixels follow their own straight path from noise to the image, where the network sees them with
        the right amount of noise (Lugmayr et al. 2022). One that learned with masks also sees them as they
        are.
        options: as of `sample`, with the defaults of `fill_defaults`.
        """
        chosen = self._checked({**self.fill_defaults(), **options})
        noise = self._noise(seeds) if noise is None else noise
        condition = replace(condition, image=images, mask=mask)
        velocity = self._velocity(condition, noise.shape, chosen)
        velocity = samplers.holding(velocity, *self._known(images, mask, noise))
        generated = self._follow(velocity, noise, 0.0, seeds, on_step, chosen)
        return torch.where(mask > 0, generated, images)

    def _known(self, images: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is known of images, the noise, and the mask of what is not known."""
        return images, noise, mask

    def vary(
        self,
        images: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Add noise to images and remove it again (Meng et al. 2022).

        strength: sampling starts at the time 1 - strength.
        options: as of `sample`.
        """
        chosen, latents = self._checked(options), self.latents_of(images)
        noise = self._noise(seeds) if noise is None else noise
        if strength == 0:
            return self.images_of(latents)
        begin = 1 - strength
        start = torch.lerp(noise, latents, begin)
        velocity = self._velocity(condition, latents.shape, chosen)
        return self._follow(velocity, start, begin, seeds, on_step, chosen)


class InvertibleFlow(FlowEditor):
    """A flow model that can be followed back to noise."""

    evidence_samples = 16

    def log_evidence(self, batch: Batch, *, seeds: Sequence[int], samples: int = 1) -> Tensor:
        """Estimate log p(image | condition) up to a constant of the image, `[n]`.

        samples: times at which noise is removed.
        """
        latents = self.batch_latents(batch)
        present = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        given = self.given(batch.condition, present, latents.shape[-2:])
        return -denoising_nll(
            lambda z, t: self.predict(z, t, given, "float32"), latents, seeds=seeds, samples=samples
        )

    def relabel(
        self,
        images: Tensor,
        source: Condition,
        target: Condition,
        *,
        seeds: Sequence[int],
        strength: float = 1.0,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Follow the flow back under one condition, forward under another.

        It goes back from the images under `source`, and forward to new images under `target`.

        strength: the way back ends at the time 1 - strength; 1 is noise.
        noise: at the beginning of the way back, `[n, *noise_shape]` instead of that of the seeds.
        options: as of `sample`. Guidance acts on the way to the new images alone.
        Raises ConfigError for a sampler that cannot go back; a default that cannot is replaced.
        """
        options = {"sampler": flow_inversion.usual_sampler(self.config.sampler), **options}
        chosen, latents = self._checked(options), self.latents_of(images)
        flow_inversion.check_sampler(chosen["sampler"])
        if strength == 0:
            return self.images_of(latents)
        steps, end = chosen["num_steps"], 1 - strength
        noise = self._noise(seeds) if noise is None else noise

        def back(done: int, _: int, preview: Preview) -> None:
            if on_step is not None:
                on_step(done, 2 * steps, lambda: self.images_of(preview()))

        def forth(done: int, _: int, preview: Preview) -> None:
            if on_step is not None:
                on_step(steps + done, 2 * steps, preview)

        start = flow_inversion.inverted(
            chosen["sampler"],
            self._velocity(source, latents.shape, {**chosen, "guidance_scale": 1.0}),
            latents,
            noise,
            end=end,
            steps=steps,
            shift=chosen["time_shift"],
            on_step=back,
        )
        velocity = self._velocity(target, latents.shape, chosen)
        return self._follow(velocity, start, end, seeds, forth, chosen)


class LatentEditor(FlowEditor):
    """A model that edits latents, and also encodes and decodes images."""

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        """Return the normalized latents of images, `[n, channels, rows, columns]`."""
        return self.latents_of(images)

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Return the images of normalized latents."""
        return self.images_of(latents)

    def _known(self, images: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return known latents, the noise, and the mask of the places to generate.

        A latent depends on pixels around its own. What the mask covers is therefore replaced by the mean of
        the rest before it is encoded, and the places beside a covered one are generated too.
        """
        covered = F.adaptive_max_pool2d(mask, noise.shape[-2:])
        latents = self.latents_of(torch.where(mask > 0, mean_outside(images, mask), images))
        return latents, noise, F.max_pool2d(covered, 3, stride=1, padding=1)
