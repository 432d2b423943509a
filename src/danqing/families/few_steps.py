"""A flow model that samples in one to a few steps: each jumps from a noisy image to the image.

With a tokenizer, images are latents here: trajectories, consistency and the discriminator are of them.

It learns the solution of a flow (`solution.py`), alone or from a teacher, in up to three parts of a run:

1. Trajectories: from each point of a teacher's trajectory, jump to its end (Luhman and Luhman 2021 at the
   noise; Hu et al. 2025, "CMT", at all points). The teacher's guidance is in its trajectories.
2. Consistency: learn the way to the image from the data itself.
3. Adversarial finish: a discriminator judges the images to which the model jumps (Yin et al. 2024, "DMD2",
   section 4.3). Its weight follows from the gradients (Esser et al. 2021). Trajectories are still learned by
   the same jumps, so that noise and images stay paired and all kinds of images are kept. Without a teacher,
   consistency is still learned, and the model jumps after its own steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from danqing.data.batch import Condition
from danqing.errors import ConfigError
from danqing.families import paths, solution
from danqing.families.adversarial import LOSSES, Loss, gradient_ratio, squared_gradients
from danqing.families.base import Alarm, Batch, FamilyConfig, Losses, ParameterKind, Phase
from danqing.families.flow import PHASE, FlowConfig
from danqing.families.flow_editing import FlowEditor, LatentEditor
from danqing.nets.flow.contract import Given
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_pairs import build_discriminator
from danqing.samplers import time_grid

DISCRIMINATOR = "discriminator"
LOSS: Loss = "relativistic"
PENALIZED = 4
"""One of so many images gets the discriminator's penalties, which cost as much as all of its other work."""


class _Points(NamedTuple):
    """Points `z` at times `t` with their condition, and the ends of their trajectories, if they are known."""

    z: Tensor
    t: Tensor
    condition: Condition
    end: Tensor | None = None


class FewStepFlow(FlowEditor):
    """A flow model that predicts where the flow leads.

    It samples in `num_steps` steps. It has no velocity, and so no likelihood.
    """

    training_only: ClassVar[tuple[str, ...]] = (DISCRIMINATOR,)

    config: FlowConfig

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config)
        self._share = 0.0
        self._times = time_grid(config.num_steps, config.time_shift)
        channels, height, width = self.codec.latent_shape
        shape = GANShape(
            height,
            width,
            channels,
            len(config.labels) if config.reads_labels else 0,
            config.attributes if config.reads_attributes else (),
        )
        features = config.solution.discriminator_features
        self.discriminator = (
            build_discriminator("dcgan", shape, features=features, batch_norm=False)
            if config.solution.has_finish
            else None
        )

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        """Return "other" for the discriminator, which AdamW then trains.

        Steps of Muon are as long for a small gradient as for a large one, and an opponent has to settle.
        """
        return "other" if name.startswith(DISCRIMINATOR) else super().parameter_kind(name, parameter)

    def on_start(self, source: FamilyConfig) -> None:
        if isinstance(source, FlowConfig) and source.objective == "flow":
            self.network.net.time.forget_target()  # type: ignore[union-attr,operator]

    def on_share(self, share: float) -> None:
        self._share = share

    @property
    def has_begun_finish(self) -> bool:
        """Return whether the discriminator has begun."""
        return self._share >= self.config.solution.adversarial_start

    # Sampling
    def sample_defaults(self) -> Mapping[str, Any]:
        return {**super().sample_defaults(), "sampler": "consistency"}

    def fill_defaults(self) -> Mapping[str, Any]:
        return self.sample_defaults()

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
        settings, taught = self.config.solution, batch.trajectories is not None
        alone = taught and self._share < settings.consistency_start
        batch = replace(batch, images=self.batch_latents(batch))
        finishes, likeness = self.has_begun_finish, torch.zeros((), device=batch.images.device)
        logged = dict.fromkeys(("trajectory", "consistency", "verdict"), likeness)
        weight = 1.0 if alone else settings.trajectory_weight
        if finishes or (taught and weight):
            points = self._points(batch, rng)
            images = self._jump(points)
            if points.end is not None and weight:
                logged["trajectory"] = solution.distance(images, points.end)
                likeness = likeness + weight * logged["trajectory"]
        if not alone and not (taught and finishes):
            logged["consistency"] = self._consistency_loss(batch, rng)
            likeness = likeness + logged["consistency"]
        total = likeness
        if finishes:
            logged["verdict"] = self._verdict(images, points.condition, batch)
            last: Tensor = self.network.net.last.weight  # type: ignore[union-attr,assignment]
            ratio = gradient_ratio(likeness, logged["verdict"], last) if likeness.requires_grad else 1.0
            total = total + settings.adversarial * ratio * logged["verdict"]
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def _points(self, batch: Batch, rng: torch.Generator) -> "_Points":
        """Return points from which a step jumps.

        They are a random one of each trajectory. Without trajectories, the model goes to them by its own
        steps, in which all of a batch are alike.
        """
        times, device = self._times[:-1], batch.images.device
        if batch.trajectories is not None:
            taught, n = batch.trajectories.images, len(batch)
            chosen = torch.randint(len(times), (n,), generator=rng, device=device)
            z, t = taught[torch.arange(n, device=device), chosen], torch.tensor(times, device=device)[chosen]
            return _Points(z, t, batch.trajectories.condition, taught[:, -1])
        steps = int(torch.randint(len(times), (1,), generator=rng, device=device))
        z = torch.randn(batch.images.shape, generator=rng, device=device)
        with torch.no_grad():
            for now, then in pairwise(times[: steps + 1]):
                points = _Points(z, torch.full((len(z),), now, device=device), batch.condition)
                image = self.bounded(self._jump(points))
                z = torch.lerp(torch.randn(z.shape, generator=rng, device=device), image, then)
        return _Points(z, torch.full((len(z),), times[steps], device=device), batch.condition)

    def _jump(self, points: "_Points") -> Tensor:
        """Return the images to which the model jumps."""
        present = torch.zeros_like(points.t, dtype=torch.bool)
        given = self.given(points.condition, present, points.z.shape[-2:])
        return self._image(self.output(points.z, points.t, given), points.z, points.t)

    def _image(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return paths.predicted_image(self.config.path, self.config.prediction, output.float(), z, t)

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
    def _verdict(self, images: Tensor, condition: Condition, batch: Batch) -> Tensor:
        """Compute the model's side of the adversarial loss."""
        assert self.discriminator is not None
        with torch.no_grad():
            real = self.discriminator(batch.images, batch.condition)
        return LOSSES[LOSS].generator(real, self.discriminator(images, condition))

    def _discriminator_loss(self, batch: Batch, rng: torch.Generator) -> Losses:
        """Compute the discriminator's side, with penalties; it rests until the finish begins."""
        assert self.discriminator is not None
        if not self.has_begun_finish:
            resting = 0.0 * torch.stack([each.sum() for each in self.discriminator.parameters()]).sum()
            return Losses(resting, dict.fromkeys(("verdict", "wins", "r1", "r2"), resting.detach()))
        batch = replace(batch, images=self.batch_latents(batch))
        points = self._points(batch, rng)
        with torch.no_grad():
            made = self._jump(points)
        real_logits, r1 = self._judged(batch.images, batch.condition)
        fake_logits, r2 = self._judged(made, points.condition)
        verdict = LOSSES[LOSS].discriminator(real_logits, fake_logits)
        wins = (real_logits > fake_logits).float().mean()
        logged = {"verdict": verdict, "wins": wins, "r1": r1, "r2": r2}
        total = verdict + self.config.solution.r1 * (r1 + r2)
        return Losses(total, {name: value.detach() for name, value in logged.items()})

    def _judged(self, images: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the logits of images, and the penalty of some of them."""
        discriminator, few = self.discriminator, max(1, len(images) // PENALIZED)
        assert discriminator is not None
        of_few = condition[:few]
        penalty = squared_gradients(lambda some: discriminator(some, of_few), images[:few]).mean()
        return discriminator(images, condition), penalty

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        if logged.get("discriminator/wins", 0) < 0.995:
            return []
        text = (
            f"The discriminator has won: it tells {logged['discriminator/wins']:.1%} of the pairs apart, so "
            f"that the model learns no more from it; raise solution.r1 (it is {self.config.solution.r1:g})."
        )
        return [Alarm("discriminator won", text)]


class FewStepLatentFlow(LatentEditor, FewStepFlow):
    """A flow model of latents that predicts where the flow leads."""
