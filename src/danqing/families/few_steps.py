"""A flow model that samples in one to a few steps: each jumps from a noisy image to the image.

It learns the solution of a flow (`solution.py`), alone or from a teacher, in up to three parts of a run:

1. Trajectories: from each point of a teacher's trajectory, jump to its end (Luhman and Luhman 2021 at the
   noise; Hu et al. 2025, "CMT", at all points). The teacher's guidance is in its trajectories.
2. Consistency: learn the way to the image from the data itself.
3. Adversarial finish: a discriminator judges images that the model samples, after any number of its own steps
   (Yin et al. 2024, "DMD2", sections 4.3 to 4.5). Trajectories are still learned, so that noise and images
   stay paired and all kinds of images are kept.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from danqing.data.batch import Condition
from danqing.errors import ConfigError
from danqing.families import paths, solution
from danqing.families.adversarial import LOSSES, squared_gradients
from danqing.families.base import Alarm, Batch, FamilyConfig, Losses, Phase
from danqing.families.flow import PHASE, FlowConfig
from danqing.families.flow_sampling import FlowEditor
from danqing.nets.flow.contract import Given
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_pairs import build_discriminator
from danqing.samplers import time_grid

DISCRIMINATOR = "discriminator"
_PENALIZED = 4
"""One of so many images gets the discriminator's penalties, which cost as much as all of its other work."""


class FewStepFlow(FlowEditor):
    """A flow model whose prediction is the image that the flow leads to.

    It samples in `num_steps` steps. It has no velocity, and so no likelihood.
    """

    training_only: ClassVar[tuple[str, ...]] = (DISCRIMINATOR,)

    config: FlowConfig

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config)
        self._share = 0.0
        self._times = time_grid(config.num_steps, config.time_shift)
        shape = GANShape(
            config.height,
            config.width,
            config.channels,
            len(config.labels) if config.reads_labels else 0,
            config.attributes if config.reads_attributes else (),
        )
        features = config.solution.discriminator_features
        self.discriminator = (
            build_discriminator("dcgan", shape, features=features, batch_norm=False)
            if config.solution.has_finish
            else None
        )

    def on_start(self, source: FamilyConfig) -> None:
        if isinstance(source, FlowConfig) and source.objective == "flow":
            self.network.net.time.forget_target()

    def on_share(self, share: float) -> None:
        self._share = share

    @property
    def has_begun_finish(self) -> bool:
        """Return whether the discriminator has begun."""
        return self._share >= self.config.solution.adversarial_start

    # Sampling
    def sample_defaults(self) -> Mapping[str, Any]:
        return {**super().sample_defaults(), "sampler": "consistency"}

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = super()._checked(options)
        if chosen["sampler"] != "consistency":
            raise ConfigError(
                "This flow model jumps to the image and has no velocity to follow: leave sampler out.",
                "sampler",
            )
        return chosen

    def output(
        self, z: Tensor, t: Tensor, given: Given, *, guide: bool = False, s: Tensor | None = None
    ) -> Tensor:
        """Run the network at points `z` of the linear path.

        s: the time that the prediction is for, by default that of the image.
        """
        return super().output(z, t, given, guide=guide, s=torch.ones_like(t) if s is None else s)

    # Loss
    def phases(self) -> tuple[Phase, ...]:
        learning = Phase(PHASE, ("network",))
        if self.discriminator is None:
            return (learning,)
        scale = self.config.solution.discriminator_learning_rate_scale
        return Phase(DISCRIMINATOR, (DISCRIMINATOR,), learning_rate_scale=scale), learning

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        if phase.name == DISCRIMINATOR:
            return self._discriminator_loss(batch, rng)
        settings, total = self.config.solution, torch.zeros((), device=batch.images.device)
        logged = {}
        alone = self._share < settings.consistency_start
        if batch.trajectories is not None and (alone or settings.trajectory_weight):
            logged["trajectory"] = self._trajectory_loss(batch.trajectories, rng)
            total = total + (1.0 if alone else settings.trajectory_weight) * logged["trajectory"]
        if self.has_begun_finish:
            logged["verdict"] = self._verdict(batch, rng)
            total = total + settings.adversarial * logged["verdict"]
        elif not alone or batch.trajectories is None:
            logged["consistency"] = self._consistency_loss(batch, rng)
            total = total + logged["consistency"]
        zero = torch.zeros_like(total, requires_grad=False)
        names = ("trajectory", "consistency", "verdict")
        return Losses(total, {name: logged.get(name, zero).detach() for name in names})

    def _jump(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the images to which the model jumps from points at times `t`."""
        given = self.given(condition, torch.zeros_like(t, dtype=torch.bool), z.shape[-2:])
        return self._image(self.output(z, t, given), z, t)

    def _image(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return paths.predicted_image(self.config.path, self.config.prediction, output.float(), z, t)

    def _trajectory_loss(self, trajectories: Batch, rng: torch.Generator) -> Tensor:
        """Compute the distance to the ends of trajectories, from one point of each."""
        points = trajectories.images
        n, count = points.shape[:2]
        chosen = torch.randint(count - 1, (n,), generator=rng, device=points.device)
        z, end = points[torch.arange(n, device=points.device), chosen], points[:, -1]
        times = torch.tensor(self._times[:-1], device=points.device)
        return solution.distance(self._jump(z, times[chosen], trajectories.condition), end)

    def _consistency_loss(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """Compute the error of the average velocity from t to s, and of the velocity itself.

        With a teacher, all images learn the way to the image; else some of them learn the velocity, and half
        of the others the way to some time s.
        """
        config, images, alone = self.config, batch.images, batch.trajectories is None
        settings, (n, device) = config.solution, (len(batch), images.device)
        uniforms = paths.stratified(n, rng, device)[torch.randperm(n, generator=rng, device=device)]
        t = paths.draw_times(config.path, config.times, config.time_mean, config.time_deviation, uniforms)
        noise = torch.randn(images.shape, generator=rng, device=device)
        absent = torch.rand(n, generator=rng, device=device) < config.condition_dropout
        where, whole = torch.rand((2, n), generator=rng, device=device)
        s = torch.where((whole < 0.5) & alone, t + (1 - t) * where, 1.0)
        first = round(settings.flow_share * n) if alone else 0
        s[:first] = t[:first]
        gap, target = settings.gap_at(self._share), images - noise
        if first < n:
            far = slice(first, n)
            middle = torch.lerp(t[far], s[far], gap)
            points = paths.mix(middle, images[far], noise[far])
            with torch.no_grad():
                given = self.given(batch.condition[far], absent[far], images.shape[-2:])
                rest = self._average_velocity(points, middle, s[far], given)
            found = solution.average_velocity(target[far], rest, gap)
            target = torch.cat([target[:first], found])
        given = self.given(batch.condition, absent, images.shape[-2:])
        errors = self._average_velocity(paths.mix(t, images, noise), t, s, given) - target
        weights = torch.where(s > t, 1 / gap, 1.0)  # the gap is the part of the target that is not its own
        return (weights * errors.square().flatten(1).mean(1)).mean()

    def _average_velocity(self, z: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Return the velocity of the straight way from z at time t to the network's point at time s."""
        image = self._image(self.output(z, t, given, s=s), z, t)
        return (image - z) / paths.wide((1 - t).clamp_min(paths.LEAST_NOISE))

    # Adversarial finish
    def _made(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return points at which sampling takes a step, and their times; all are of one random step."""
        images, times = batch.images, self._times
        steps = int(torch.randint(len(times) - 1, (1,), generator=rng, device=images.device))
        z = torch.randn(images.shape, generator=rng, device=images.device)
        with torch.no_grad():
            for t, s in pairwise(times[: steps + 1]):
                image = self._jump(z, torch.full_like(z[:, 0, 0, 0], t), batch.condition).clamp(-1, 1)
                z = torch.lerp(torch.randn(z.shape, generator=rng, device=z.device), image, s)
        return z, torch.full_like(z[:, 0, 0, 0], times[steps])

    def _verdict(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """Compute the model's side of the adversarial loss."""
        assert self.discriminator is not None
        z, t = self._made(batch, rng)
        fake = self.discriminator(self._jump(z, t, batch.condition), batch.condition)
        with torch.no_grad():
            real = self.discriminator(batch.images, batch.condition)
        return LOSSES["relativistic"].generator(real, fake)

    def _discriminator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        """Compute the discriminator's side, with penalties; it rests until the finish begins."""
        assert self.discriminator is not None
        if not self.has_begun_finish:
            resting = 0.0 * sum(parameter.sum() for parameter in self.discriminator.parameters())
            return Losses(resting, dict.fromkeys(("verdict", "wins", "r1", "r2"), resting.detach()))
        with torch.no_grad():
            z, t = self._made(batch, rng)
            fake = self._jump(z, t, batch.condition)
        both, few = batch.condition[[*range(len(batch))] * 2], max(1, len(batch) // _PENALIZED)
        real_logits, fake_logits = self.discriminator(torch.cat([batch.images, fake]), both).chunk(2)
        verdict = LOSSES["relativistic"].discriminator(real_logits, fake_logits)
        of_few, discriminator = batch.condition[[*range(few)] * 2], self.discriminator
        penalties = squared_gradients(
            lambda images: discriminator(images, of_few), torch.cat([batch.images[:few], fake[:few]])
        )
        r1, r2 = (part.mean() for part in penalties.chunk(2))
        logged = {
            "verdict": verdict,
            "wins": (real_logits > fake_logits).float().mean(),
            "r1": r1,
            "r2": r2,
        }
        total = verdict + self.config.solution.r1 * (r1 + r2)
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        if logged.get("discriminator/wins", 0) < 0.995:
            return []
        text = (
            f"The discriminator has won: it tells {logged['discriminator/wins']:.1%} of the pairs apart, so "
            f"that the model learns no more from it; raise solution.r1 (it is {self.config.solution.r1:g})."
        )
        return [Alarm("discriminator won", text)]
