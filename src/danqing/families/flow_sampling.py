"""How flow models sample: from noise to images, with guidance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from danqing import samplers
from danqing.errors import ConfigError
from danqing.families import flow_growth, flow_inversion, paths, word_attention
from danqing.families.abilities import OnStep, Preview
from danqing.families.base import Condition
from danqing.families.flow import FlowConfig as FlowConfig
from danqing.families.flow import FlowModel, towards
from danqing.families.seamless import Tiling, wrapped
from danqing.guidance import GuidanceRules
from danqing.nets.flow.conditioned import joined
from danqing.nets.flow.contract import Given
from danqing.nets.grids import grid_of
from danqing.nets.layers import enlarged, shrunk
from danqing.options import complete
from danqing.precision import Precision, autocast, candidates
from danqing.randomness import normal


class FlowSampler(FlowModel):
    """A flow model that samples with options."""

    def sample_defaults(self) -> Mapping[str, Any]:
        config = self.config
        names: tuple[str, ...] = ("sampler", "num_steps", "time_shift")
        if config.can_guide:
            names += ("guidance", "guidance_scale", "guidance_start", "guidance_end")
        options = {**{name: getattr(config, name) for name in names}, "precision": "auto"}
        return {**options, "sampler": self._suitable(config.sampler)}

    def _suitable(self, sampler: samplers.SamplerName) -> samplers.SamplerName:
        """Return a sampler that suits how the model learned.

        Noise that is added on the way is independent of the image. A model that learned with transport has
        only seen noise that depends on it.
        """
        return sampler if self.config.transport == "none" else samplers.WITHOUT_NOISE.get(sampler, sampler)

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
        chosen = complete(options, self.sample_defaults(), "This flow model")
        if (suitable := self._suitable(chosen["sampler"])) != chosen["sampler"]:
            raise ConfigError(
                f"The sampler {chosen['sampler']} adds noise that is independent of the image, but this "
                f"model learned with transport={self.config.transport}, from noise that depends on the "
                f"image: set sampler to {suitable}.",
                "sampler",
            )
        return chosen

    def word_attention(self, images: Tensor, condition: Condition, *, seeds: Sequence[int]) -> Tensor:
        """Return how much places of images attend to tokens of texts."""
        return word_attention.of_flow(self, images, condition, list(seeds))
