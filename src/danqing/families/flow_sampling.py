"""What a trained flow model offers: sampling with guidance, filling, variations, translation, likelihoods."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing import samplers
from danqing.errors import ConfigError
from danqing.families import flow_growth, flow_inversion, paths, word_attention
from danqing.families.abilities import OnStep, Preview
from danqing.families.back_projection import projected
from danqing.families.base import Batch, Condition
from danqing.families.denoising_nll import denoising_nll
from danqing.families.flow import FlowConfig as FlowConfig
from danqing.families.flow import FlowModel, towards
from danqing.families.ode_likelihood import bits_per_dim
from danqing.families.seamless import Tiling, check_sides, wrapped
from danqing.guidance import GuidanceRules
from danqing.images import mean_outside
from danqing.nets.flow.conditioned import joined
from danqing.nets.flow.contract import Given
from danqing.nets.grids import grid_of
from danqing.nets.layers import enlarged, shrunk
from danqing.options import complete
from danqing.precision import Precision, autocast, candidates
from danqing.randomness import normal
from danqing.sizes import SizeRange

FILLING_STEPS = 48
"""Of one evaluation each."""


class FlowSampler(FlowModel):
    """A flow model that samples with options."""

    def sample_defaults(self) -> Mapping[str, Any]:
        config = self.config
        names: tuple[str, ...] = ("sampler", "num_steps", "time_shift")
        if config.can_guide:
            names += ("guidance", "guidance_scale", "guidance_start", "guidance_end")
        return {**{name: getattr(config, name) for name in names}, "precision": "auto"}

    def painting_steps(self, **options: Any) -> int:
        return int({**self.sample_defaults(), **options}["num_steps"])

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
        """Carry noise to an image per seed.

        size: (width, height) of the images, by default the model's own.
        noise: standard normal values instead of those that the seeds give.
        sampler, num_steps: how the velocity is followed.
        time_shift: above 1 more steps are spent near noise.
        guidance: what guidance leads away from, no "condition" or the early "guide".
        guidance_scale: how far, while t is between guidance_start and guidance_end; 1 is not at all.
        precision: of the matrix products; "auto" is what the machine is fast at.
        seamless: of a `SizedFlow`, the axes along which opposite edges fit together, "none", "x", "y" or
            "both".
        A network that has not grown to the whole size yet samples small images, which are enlarged.
        Raises ConfigError.
        """
        chosen, noise = self._checked(options), self._noise(seeds, size) if noise is None else noise
        if self.config.grow and self.level:
            return self._sample_small(condition, seeds, noise, on_step, chosen)
        start = self.start(condition, noise)
        velocity = self._velocity(condition, start.shape, chosen)
        return self._follow(velocity, start, 0.0, seeds, on_step, chosen, size=size)

    def trajectory(
        self, condition: Condition, noise: Tensor, times: Sequence[float], **options: Any
    ) -> Tensor:
        """Return the points of the flow at some times.

        They are `[n, times, c, h, w]`.
        noise: `[n, c, h, w]`, at times[0], which is 0; times[-1] is 1.
        options: as of `sample`. A sampler that adds noise is replaced by one that does not.
        """
        chosen = self._checked(options)
        sampler = flow_inversion.usual_sampler(chosen["sampler"])
        velocity = self._velocity(condition, noise.shape, {**chosen, "sampler": sampler})
        return torch.stack([noise, *samplers.trajectory(sampler, velocity, noise, times)], dim=1)

    def _sample_small(
        self,
        condition: Condition,
        seeds: Sequence[int],
        noise: Tensor,
        on_step: OnStep | None,
        chosen: Mapping[str, Any],
    ) -> Tensor:
        """Sample at the size that the network has grown to, and enlarge the images.

        noise: of the whole size.
        """
        level = int(self.level)

        def whole(images: Tensor) -> Tensor:
            return enlarged(images, level, (noise.shape[-2], noise.shape[-1]))

        def report(done: int, steps: int, preview: Preview) -> None:
            assert on_step is not None
            on_step(done, steps, lambda: whole(preview()))

        if condition.image is not None:
            condition = replace(condition, image=shrunk(condition.image, level))
        start = self.start(condition, shrunk(noise, level))
        velocity = self._velocity(condition, start.shape, chosen, level=level)
        reporting = report if on_step is not None else None
        scale = flow_growth.noise_scale(level)
        return whole(self._follow(velocity, start, 0.0, seeds, reporting, chosen, noise_scale=scale))

    def _noise(self, seeds: Sequence[int], size: tuple[int, int] | None = None) -> Tensor:
        shape, device = self.codec.latent_shape, next(self.network.parameters()).device
        if size is not None:
            shape = (shape[0], *grid_of((size[1], size[0]), self.codec.factor))
        return normal(seeds, shape, device=device)

    def _follow(
        self,
        velocity: samplers.Velocity,
        start: Tensor,
        begin: float,
        seeds: Sequence[int],
        on_step: OnStep | None,
        chosen: Mapping[str, Any],
        noise_scale: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Follow a velocity from points `start` at time `begin` to images.

        noise_scale: the standard deviation of the noise of a point at time 0.
        size: (width, height) of the images, by default the model's own.
        """
        times = samplers.time_grid(chosen["num_steps"], chosen["time_shift"], start=begin)

        def noise(step: int) -> Tensor:
            drawn = normal(seeds, start.shape[1:], purpose=f"step {step}", device=start.device)
            return drawn * noise_scale

        def decoded(latents: Tensor) -> Tensor:
            with wrapped(chosen.get("seamless", "none")):
                return self.images_of(latents, size)

        def report(done: int, steps: int, preview: Preview) -> None:
            if on_step is not None:
                on_step(done, steps, lambda: decoded(preview()))

        found = samplers.integrate(chosen["sampler"], velocity, start, times, noise=noise, on_step=report)
        return decoded(found)

    def _velocity(
        self, condition: Condition, shape: Sequence[int], chosen: Mapping[str, Any], *, level: int = 0
    ) -> samplers.Velocity:
        """Return the velocity towards predictions, which guidance moves; pixels are bounded to [-1, 1].

        shape: of the images, `[n, c, h, w]`. level: how often they are halved, of a network that grows.

        Guidance leads away from the prediction without the condition (Ho and Salimans 2022, equation 6) or
        from that of an early copy (Karras et al. 2024, equation 3), within an interval of times (Kynkäänniemi
        et al. 2024).
        """
        scale = chosen.get("guidance_scale", 1)
        by_guide = scale != 1 and chosen["guidance"] == "guide"
        first, last = chosen.get("guidance_start", 0), chosen.get("guidance_end", 1)
        device = next(self.network.parameters()).device
        precision: Precision = candidates(device)[0] if chosen["precision"] == "auto" else chosen["precision"]
        present = torch.zeros(shape[0], dtype=torch.bool, device=device)
        self.guidance_rules.check_flow_guidance(chosen, condition.negative_text or ())
        with autocast(precision, device):
            under = away = self.given(condition, present, shape[2:], level=level)
            if by_guide:
                away = self.given(condition, present, shape[2:], guide=True)
            elif scale != 1:
                negative = replace(condition, text=condition.negative_text or condition.text)
                hidden = present if condition.negative_text else ~present
                away = self.given(negative, hidden, shape[2:], level=level)

        def image(z: Tensor, t: Tensor, under: Given, away: Given) -> Tensor:
            weight = torch.where((t >= first) & (t <= last), scale, 1.0)
            # The steps of the adaptive sampler differ from image to image, so that all are computed alike.
            if scale == 1 or (chosen["sampler"] != "adaptive" and bool((weight == 1).all())):
                return self.predict(z, t, under, precision)
            if by_guide:
                wanted = self.predict(z, t, under, precision)
                other = self.predict(z, t, away, precision, guide=True)
            else:
                both = joined(under, away)
                wanted, other = self.predict(z.repeat(2, 1, 1, 1), t.repeat(2), both, precision).chunk(2)
            return torch.lerp(other, wanted, paths.wide(weight))

        tiling = Tiling(chosen.get("seamless", "none"))

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            found = tiling.predict(lambda z, move: image(z, t, under.moved(move), away.moved(move)), z)
            return towards(self.bounded(found), z, t)

        return velocity

    @property
    def guidance_rules(self) -> GuidanceRules:
        """Return what guidance can lead away from."""
        config = self.config
        return GuidanceRules(
            has_condition=bool(config.reads_text or config.labels or config.attributes),
            has_dropout=bool(config.condition_dropout),
            has_guide=self.guide is not None,
            guide_trained=self.guide is not None and bool(self.guide_taken),
        )

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options with their defaults; raises ConfigError."""
        return complete(options, self.sample_defaults(), "This flow model")

    def word_attention(self, images: Tensor, condition: Condition, *, seeds: Sequence[int]) -> Tensor:
        """Return how much places of images attend to tokens of texts."""
        return word_attention.of_flow(self, images, condition, list(seeds))


class FlowEditor(FlowSampler):
    """A flow model that also fills and varies images."""

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return the shape of the noise of an image."""
        return self.codec.latent_shape

    def fill_defaults(self) -> Mapping[str, Any]:
        """Return the options of `fill` with their defaults.

        Each step adds fresh noise to the predicted image, so that what is generated can still follow what is
        known around it: the purpose of resampling in Lugmayr et al. 2022, without its cost.
        """
        return {**self.sample_defaults(), "sampler": "consistency", "num_steps": FILLING_STEPS}

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
