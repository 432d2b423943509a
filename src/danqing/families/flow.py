"""Flow matching: a network learns the velocity that carries noise to images (Lipman et al. 2023).

This file is the whole model, to be read from top to bottom:

1. Configuration.
2. Loss. Mix an image x with noise ε to z = t x + (1 - t) ε at a random time t. The network sees z and t and
   predicts the image x, from which the velocity x - ε follows (Li and He 2025). `paths.py` has the equations.
3. Generation. Start at noise and follow the velocity from t = 0 to t = 1 in small steps.

With a tokenizer, x is not an image but its latents, a small image of real numbers (Rombach et al. 2022).

`flow_sampling.py` adds samplers and guidance, `flow_editing.py` filling and variations, and
`flow_variants.py` what only some models offer: other sizes, likelihoods, latents and translation.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families import flow_growth, paths
from danqing.families.abilities import Grows, HasGuide
from danqing.families.base import Batch, Condition, Losses, ParameterKind, Phase
from danqing.families.mask_shapes import draw_masks
from danqing.families.solution import SolutionConfig
from danqing.families.tokenizers import LatentConfig, LatentStage
from danqing.families.transport import Transport, noise_for
from danqing.images import with_channels
from danqing.nets.flow.conditioned import ConditionedNet
from danqing.nets.flow.conditioning import TextTokens
from danqing.nets.flow.contract import FlowShape, Given, Net
from danqing.nets.layers import channels_last, crop
from danqing.nets.restoration import enlarged_cubic
from danqing.precision import Precision, autocast
from danqing.samplers import SamplerName
from danqing.text.encoders import shared_encoder

PHASE = "flow"
PARTS = 3
"""The loss is logged for so many equal parts of the way, since its size differs between them."""
LEAST_NOISE = 1e-3
"""1 - t is at least this where a sampler divides by it."""


# 1. Configuration
class FlowConfig(LatentConfig):
    """Settings of flow matching.

    widths: channels at each resolution, from fine to coarse; the last is the width of tokens, and the only
        one that `dit` uses.
    layers: of the transformer, or residual blocks at each resolution of `unet`.
    patch: the side of a token of `dit`, in pixels.
    path, prediction, times: what is learned, as `paths.py` explains; time_mean and time_deviation are of the
        logit of t.
    transport: pair noise with images so that their paths cross less: within a "minibatch", or over the whole
        data set ("semidiscrete"); for models without labels, attributes and captions.
    grow: for networks of several resolutions; `flow_growth.py` explains what is learned at each size.
    mask_share: the share of images learned with a mask, so that the network fills; 0 is none.
    pairs: learn a translation, from the source image of each pair to its target. source_noise: the standard
        deviation of the noise that is added to the source. coarse_noise: how much stronger this noise is at
        twice the scale, from 1 (white noise) to 2 (the same energy at all scales).
    guide: keep an early copy of the network, which guidance can lead away from.
    objective: learn the velocity alone ("flow"), or the whole way to the image, for a few steps ("solution");
        `solution` then says how.
    sampler, num_steps, time_shift, guidance, guidance_scale, guidance_start, guidance_end: the defaults of
        sampling. With transport, a sampler that adds noise gives way to the same without noise.
    """

    display_name: ClassVar[str] = "flow model"

    family: Literal["flow"] = "flow"
    net: Net = "hybrid"
    widths: tuple[int, ...] = (32, 96, 256)
    layers: int = Field(6, ge=1, le=64)
    heads: int = Field(4, ge=1, le=64)
    patch: int = Field(4, ge=1, le=64)
    path: paths.PathName = "linear"
    prediction: paths.Prediction = "image"
    times: paths.Times = "logit_normal"
    time_mean: float = Field(-0.4, ge=-10, le=10)
    time_deviation: float = Field(1.0, gt=0, le=10)
    transport: Transport = "none"
    mask_share: float = Field(0.0, ge=0, le=1)
    pairs: bool = False
    source_noise: float = Field(0.5, ge=0, le=10)
    coarse_noise: float = Field(1.0, ge=1, le=2)
    guide: bool = False
    objective: Literal["flow", "solution"] = "flow"
    solution: SolutionConfig = SolutionConfig()
    sampler: SamplerName = "ab2"
    num_steps: int = Field(24, ge=1, le=10_000)
    time_shift: float = Field(1.0, gt=0, le=100)
    guidance: Literal["condition", "guide"] = "condition"
    guidance_scale: float = Field(1.0, ge=0, le=100)
    guidance_start: float = Field(0.0, ge=0, le=1)
    guidance_end: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not self.widths or min(self.widths) < 4 or max(self.widths) > 8192:
            raise ValueError("widths must hold one to several numbers from 4 to 8192")
        if self.widths[-1] % (4 * self.heads):
            raise ValueError("the last of widths must be a multiple of four times heads")
        if self.guidance == "guide" and not self.guide:
            raise ValueError("guidance = 'guide' needs guide = true, so that there is an early copy")
        reads = (
            self.reads_text
            or (self.reads_attributes and self.attributes)
            or (self.reads_labels and self.labels)
        )
        if self.transport != "none" and (reads or self.pairs):
            raise ValueError(
                "transport pairs noise with images whatever they show, which harms a model that is told what "
                "they show: set conditional = false, or transport = 'none'"
            )
        if self.grow and self.net == "dit":
            raise ValueError(
                "a dit has one resolution and does not grow: set net = 'hybrid' or leave grow out"
            )
        if self.grow and self.guide:
            raise ValueError(
                "the guide is an early copy of the network, which is a small one where the network grows: "
                "leave guide or grow out"
            )
        if self.coarse_noise > 1 and (self.grow or not self.pairs):
            raise ValueError("coarse_noise is for models of pairs that do not grow: set coarse_noise = 1")
        if self.pairs and self.mask_share:
            raise ValueError("a model of pairs does not fill: set mask_share = 0")
        if self.tokenizer and (self.mask_share or self.pairs or self.noise_chooses_images):
            raise ValueError(
                "masks, pairs and semidiscrete transport are learned from pixels: set mask_share = 0, "
                "pairs = false and transport = 'none', or train without a tokenizer"
            )
        if self.objective == "solution":
            self._check_solution()
        return self

    def _check_solution(self) -> None:
        """Raise ValueError if other settings do not suit a model of few steps."""
        if self.transport != "none":
            raise ValueError(
                "a model of few steps adds noise that is independent of the image: set transport = 'none'"
            )
        for name in ("mask_share", "pairs", "guide", "grow"):
            if getattr(self, name):
                raise ValueError(f"objective = 'solution' does not work with {name}: leave {name} out")

    @property
    def learns_trajectories(self) -> bool:
        return self.objective == "solution" and self.solution.trajectories > 0

    @property
    def can_grow(self) -> bool:
        return True

    @property
    def grow_levels(self) -> tuple[int, ...]:
        levels = super().grow_levels
        if levels[0] >= len(self.widths):
            raise ConfigError(
                f"grow begins with images that are halved {levels[0]} times, and a network with "
                f"{len(self.widths)} widths halves them {len(self.widths) - 1} times: begin with larger "
                "images, or add to widths.",
                "grow",
            )
        return levels

    @property
    def reads_source(self) -> bool:
        return self.pairs

    @property
    def takes_sizes(self) -> bool:
        return self.objective == "flow" and not (self.pairs or self.noise_chooses_images)

    @property
    def why_not_private(self) -> str:
        if self.transport != "none":
            return "Transport compares all images of a batch, not one image alone: set transport=none."
        if self.mask_share:
            return "Learning with masks has not been made private: set mask_share=0."
        if self.objective == "solution":
            return "Learning to sample in few steps has not been made private: set objective=flow."
        return ""

    @property
    def noise_chooses_images(self) -> bool:
        return self.transport == "semidiscrete"

    @property
    def can_guide(self) -> bool:
        return self.objective == "flow" and (self.guide or super().can_guide)


def build_network(config: FlowConfig, channels: int) -> ConditionedNet:
    """Build the network of a configuration with fresh weights.

    channels: of what it generates, images or latents.
    Raises ConfigError where the model reads captions and there are none.
    """
    text, width = None, config.widths[-1]
    if config.reads_text:
        facts = config.text_facts
        if facts is None:
            raise ConfigError("This model reads captions and has none: train it on data with captions.")
        text = TextTokens(facts.vocabulary, facts.width, config.text.length, width, config.heads)
    extra = config.channels + 1 if config.mask_share else 0
    extra += config.channels if config.pairs else 0
    shape = FlowShape(
        channels,
        extra,
        config.widths,
        config.layers,
        config.heads,
        config.patch,
        config.reads_text,
        config.grow_levels,
    )
    labels = len(config.labels) if config.reads_labels else 0
    return ConditionedNet(config.net, shape, labels=labels, attributes=config.attributes, text=text)


class FlowModel(LatentStage, HasGuide, Grows):
    """A network that predicts images, or their latents, from noisy ones.

    The velocity of a point follows from its prediction.
    """

    config: FlowConfig
    guide_taken: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config)
        self.path = paths.PATHS[config.path]
        channels = self.codec.latent_shape[0]
        self.network = build_network(config, channels)
        self.guide = build_network(config, channels).requires_grad_(False) if config.guide else None
        if config.guide:
            self.register_buffer("guide_taken", torch.zeros((), dtype=torch.bool))
        if config.grow:
            self.register_buffer("level", torch.tensor(config.grow_levels[0]))

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        """Let Muon train kernels, and the layers that read a text, too.

        Kernels that read and write images are left to AdamW. At a learning rate that suits Muon, its steps
        are too long for the layers that read a text: such a model learned hardly any words.
        """
        part = name.partition(".net.")[2].removeprefix("small.")
        is_edge = part.startswith(("first.", "last."))
        is_kernel = parameter.dim() == 4 and not is_edge
        if "weight" in name and (is_kernel or (parameter.dim() == 2 and ".text.layers." in name)):
            return "matrix"
        return super().parameter_kind(name, parameter)

    def starts_at(self, name: str) -> int:
        network, levels = self._network(guide=False), self.config.grow_levels
        level = network.level_of(name.removeprefix("network."))
        return 0 if level is None else next(n for n, each in enumerate(levels) if each <= level)

    # 2. Loss
    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("network",)),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        config, images = self.config, self.batch_latents(batch)
        n, device, level = len(images), images.device, self._level_of(images)
        uniforms = paths.stratified(n, rng, device)
        t = paths.draw_times(config.path, config.times, config.time_mean, config.time_deviation, uniforms)
        noise = noise_for(
            config.transport, replace(batch, images=images), rng, flow_growth.noise_scale(level)
        )
        absent = torch.rand(n, generator=rng, device=device) < config.condition_dropout
        condition, mask = batch.condition, None
        if config.mask_share:
            mask = self._training_masks(images, rng)
            condition = replace(condition, image=images, mask=mask)
        start = self.start(condition, noise)
        given = self.given(condition, absent, images.shape[-2:], level=level)
        output = self.output(paths.mix(t, images, start), t, given)
        errors = paths.training_loss(config.path, config.prediction, output, images, start, t, mask)
        logged = {f"loss_{part}": _mean_within(errors.detach(), t, part - 1) for part in range(1, PARTS + 1)}
        return Losses(errors.mean(), logged)

    def _level_of(self, images: Tensor) -> int:
        """Return how often images are halved, for a network that grows."""
        if not self.config.grow:
            return 0
        pixels = self.config.height * self.config.width
        return round(math.log2(pixels / images[0, 0].numel()) / 2)

    def _training_masks(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Draw masks `[n, 1, h, w]`; those of images that are learned without one cover all pixels."""
        n, _, height, width = images.shape
        masks = draw_masks(n, height, width, rng)
        whole = torch.rand(n, generator=rng, device=images.device) >= self.config.mask_share
        return torch.where(paths.wide(whole), 1.0, masks)

    def _network(self, guide: bool) -> ConditionedNet:
        """Return the network, or its early copy."""
        network = self.guide if guide else self.network
        assert isinstance(network, ConditionedNet)
        return network

    def output(
        self, z: Tensor, t: Tensor, given: Given, *, guide: bool = False, s: Tensor | None = None
    ) -> Tensor:
        """Run the network at points `z` of the linear path.

        guide: run its early copy instead. s: the time that the prediction is for, by default `t`.
        """
        network = self._network(guide)
        clock = self.path.clock(t)
        target = clock if s is None else self.path.clock(s)
        x = channels_last(z * paths.wide(self.path.input_scale(t)))
        out: Tensor = network(x, clock, target, given)
        return out + self._guessed_detail(z, t, given.level) if self.config.grow else out

    def _guessed_detail(self, z: Tensor, t: Tensor, level: int) -> Tensor:
        """Return the output for the detail of points that the smallest size does not have."""
        config = self.config

        def gain(of: int) -> Tensor:
            variance = flow_growth.noise_scale(of) ** 2
            if config.pairs:  # a path begins at the source image, which has detail of its own
                variance = config.source_noise**2 * variance + paths.DETAIL_SCALE**2
            return paths.detail_gain(config.path, config.prediction, t, variance)

        return flow_growth.guessed_detail(z, config.grow_levels, level, gain)

    def given(
        self,
        condition: Condition,
        absent: Tensor,
        size: Sequence[int],
        *,
        guide: bool = False,
        level: int = 0,
    ) -> Given:
        """Turn a condition into tensors.

        absent: bool `[n]`, the images whose label or text is hidden. size: (height, width) of the images.
        level: how often the images are halved, of a network that grows.
        Raises ConfigError where the condition lacks what this model reads.
        """
        config, encoded = self.config, None
        if config.reads_text:
            if condition.text is None:
                raise ConfigError('This model reads a text: give it a prompt ("" for anything).')
            assert config.text_facts is not None
            encoder = shared_encoder(config.text, config.text_facts)
            encoded = encoder.encode(condition.text).to(absent.device)
            absent = absent | torch.tensor(
                [not text.strip() for text in condition.text], device=absent.device
            )
        return self.given_encoded(condition, encoded, absent, size, guide=guide, level=level)

    def given_encoded(
        self,
        condition: Condition,
        encoded: Tensor | None,
        absent: Tensor,
        size: Sequence[int],
        *,
        guide: bool = False,
        level: int = 0,
    ) -> Given:
        """Turn a condition whose texts are encoded into tensors.

        encoded: what the text encoder gave; None where the model reads no text.
        Other arguments and errors are those of `given`.
        """
        config = self.config
        if config.reads_labels and config.labels and condition.label is None:
            some = ", ".join(config.labels[:8])
            raise ConfigError(f"This model needs a label for every image: one of {some}.")
        network = self._network(guide)
        channels = self._channels(condition, absent, size)
        return network.given(condition, absent, encoded=encoded, channels=channels, level=level)

    def _channels(self, condition: Condition, like: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return what the network sees beside its input: known pixels and mask, or the source image."""
        config, parts = self.config, []
        if config.mask_share:
            shape = (like.shape[0], config.channels, *size)
            if condition.mask is None or condition.image is None:
                mask = torch.ones((like.shape[0], 1, *shape[2:]), device=like.device)
                known = torch.zeros(shape, device=like.device)
            else:
                mask, known = condition.mask, condition.image * (1 - condition.mask)
            parts += [known, mask]
        if config.pairs:
            parts.append(self.source(condition, size))
        return torch.cat(parts, dim=1) if parts else None

    def start(self, condition: Condition, noise: Tensor) -> Tensor:
        """Return where the path begins.

        That is noise, or the source image with noise.
        """
        if not self.config.pairs:
            return noise
        noise = paths.coarsened(noise, self.config.coarse_noise)
        return self.source(condition, noise.shape[-2:]) + self.config.source_noise * noise

    def source(self, condition: Condition, size: Sequence[int]) -> Tensor:
        """Return the source images with a (height, width) and the channels of their targets."""
        if condition.image is None:
            raise ConfigError("This model turns one image into another: give it a source image.")
        large = crop(enlarged_cubic(condition.image, self.config.source_scale), (size[0], size[1]))
        return with_channels(large, self.config.channels)

    def predict(
        self, z: Tensor, t: Tensor, given: Given, precision: Precision, *, guide: bool = False
    ) -> Tensor:
        """Predict images from points `z`, float32.

        guide: by the early copy of the network.
        """
        with autocast(precision, z.device):
            output = self.output(z, t, given, guide=guide)
        return paths.predicted_image(self.config.path, self.config.prediction, output.float(), z, t)

    def velocity(self, z: Tensor, t: Tensor, given: Given, precision: Precision = "float32") -> Tensor:
        """Return the velocity towards the predicted images.

        z: points `[n, c, h, w]` at times `t` `[n]`.
        """
        return towards(self.predict(z, t, given, precision), z, t)


# 3. Generation
def towards(image: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Return the velocity from points towards images.

    It is (x̂ - z) / (1 - t) at points `z` at times `t`.
    """
    return (image - z) / paths.wide((1 - t).clamp_min(LEAST_NOISE))


@torch.no_grad()
def generate(model: FlowModel, condition: Condition, noise: Tensor, num_steps: int) -> Tensor:
    """Generate images from noise `[n, c, h, w]` by Euler's method, the simplest sampler."""
    z, n = model.start(condition, noise), len(noise)
    given = model.given(condition, torch.zeros(n, dtype=torch.bool), noise.shape[-2:])
    for step in range(num_steps):
        t = torch.full((n,), step / num_steps)
        z = z + model.velocity(z, t, given) / num_steps
    return model.images_of(z)


def _mean_within(values: Tensor, t: Tensor, part: int) -> Tensor:
    """Return the mean of those values `[n]` whose time lies in that part of the way, from 0; else 0."""
    inside = ((t * PARTS).long() == part).float()
    return (values * inside).sum() / inside.sum().clamp_min(1)
