"""Pretrained pipelines of `diffusers` as a family: they sample, vary and fill like models of our own.

An image has its own random stream, `torch.Generator("cpu").manual_seed(seed)`, and is computed in a chunk of
constant size. So it depends on its seed, its text and the options alone, and is the image that `diffusers`
gives for this generator.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from danqing import weights
from danqing.errors import ConfigError
from danqing.families.abilities import OnStep
from danqing.families.base import Condition
from danqing.families.configuration import FamilyConfig
from danqing.families.pipeline_learning import LearningPipeline
from danqing.nets import adapters
from danqing.pipelines import components, hub, placing, running
from danqing.pipelines.calls import Call, parameters_of
from danqing.pipelines.kinds import kind_of, learned_size, size_multiple
from danqing.pipelines.layout import Layout
from danqing.pipelines.memory import MemoryEstimate, estimate
from danqing.pipelines.options import LoadOptions
from danqing.sizes import SizeRange
from danqing.text.contract import TextConfig, TextFacts

_USUAL_TOKENS = 77
_ESTIMATES: dict[tuple[Path, str, LoadOptions, str], MemoryEstimate] = {}
"""By what they follow from: counting takes seconds, and a service asks before it loads."""
_Task = Literal["sample", "vary", "fill"]


class PipelineConfig(FamilyConfig):
    """What is known of a pipeline.

    pipeline: its class in `diffusers`. text: what reads its prompts.
    """

    display_name: ClassVar[str] = "pipeline"

    family: Literal["pipeline"] = "pipeline"
    pipeline: str
    text: TextConfig
    text_facts: TextFacts | None = None
    guided: bool = True

    @property
    def reads_labels(self) -> bool:
        return False

    @property
    def reads_text(self) -> bool:
        return True

    @property
    def can_guide(self) -> bool:
        return self.guided

    @property
    def takes_sizes(self) -> bool:
        return True


class _StandIn(nn.Module):
    """The weights of a component that is not loaded, on "meta"."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        frozen = (nn.Parameter(one, requires_grad=False) for one in tensors.values())
        self.tensors = nn.ParameterList(frozen)


class Pipeline(LearningPipeline):
    """A pipeline that samples images.

    It is loaded when it is moved to a device.
    """

    config: PipelineConfig

    def __init__(self, layout: Layout, options: LoadOptions) -> None:
        super().__init__()
        kind = kind_of(layout)
        defaults = parameters_of(components.pipeline_class(kind.classes[0]))
        self.layout, self.kind, self.load_options = layout, kind, options
        self.call_rules = Call(layout, kind, options, defaults)
        self.chunk = options.chunk  # type: ignore[misc]
        self.multiple = size_multiple(layout, kind)
        width, height = self._own_size()
        self.config = PipelineConfig(
            pipeline=layout.kind,
            width=width,
            height=height,
            channels=3,
            text=TextConfig(encoder=_encoder_of(layout), length=min(self._tokens(), 512)),
            guided="guidance_scale" in self.call_rules.options,
        )
        held = {name: _StandIn(one.stand_ins()) for name, one in layout.components.items() if one.weights}
        self.networks = nn.ModuleDict(held)
        self._pipes: dict[_Task, Any] = {}
        self._added: tuple[adapters.Added, ...] = ()
        self._device = torch.device("cpu")
        self.offload = "none"

    @classmethod
    def open(cls, layout: Layout, options: LoadOptions) -> "Pipeline":
        """Return the pipeline of some files; raises ModelError.

        It varies and fills images where its class can.
        """
        _, varies, fills = kind_of(layout).classes
        chosen = EditingPipeline if varies and fills else VaryingPipeline if varies else Pipeline
        return chosen(layout, options)

    def facts(self) -> dict[str, Any]:
        """Return what is known of the pipeline besides its configuration."""
        licence = hub.licence_of(self.layout.folder)
        return {"pipeline": self.layout.kind, **({"licence": licence} if licence else {})}

    @property
    def sizes(self) -> SizeRange:
        """Return its own size, and others.

        They have from a quarter of its area to four times.
        """
        own = (self.config.width, self.config.height)
        area = own[0] * own[1]
        return SizeRange((own,), self.multiple, area // 4, 4 * area)

    @property
    def pipe(self) -> Any:
        """Return the pipeline of `diffusers` that samples.

        It is loaded for the processor if it is not loaded yet.
        """
        return self._pipe("sample")

    @functools.cached_property
    def _digest(self) -> str:
        return self.layout.digest()

    def digest(self) -> str:
        if adapters.is_adapted(self):
            return super().digest()
        if not self._added:
            return self._digest
        parts = [(weights.digest(one.tensors), one.weight) for one in self._added]
        return adapters.combined_digest(self._digest, parts)

    @property
    def denoiser_name(self) -> str:
        """Return the name of the component that removes noise."""
        return self.kind.denoiser

    @property
    def denoiser(self) -> nn.Module | None:
        """Return the network that removes noise; None before it is loaded."""
        found: nn.Module | None = getattr(self._pipes["sample"], self.kind.denoiser) if self._pipes else None
        return found

    def with_added(self, added: Sequence[adapters.Added]) -> Self:
        """Return the same pipeline with adapters, added when it is loaded."""
        other = type(self)(self.layout, self.load_options)
        other._added = (*self._added, *added)
        return other

    def memory(self, device: torch.device) -> MemoryEstimate:
        """Estimate the memory of a chunk of images of its own size."""
        key = (self.layout.folder, self.layout.settings_text, self.load_options, str(device))
        if key not in _ESTIMATES:
            _ESTIMATES[key] = estimate(
                self.layout,
                self.kind,
                self.load_options,
                device,
                size=(self.config.width, self.config.height),
                guided=self.call_rules.is_guided,
                tokens=self._tokens(),
            )
        return _ESTIMATES[key]

    def bytes_on(self, device: torch.device) -> tuple[int, int]:
        """Return the bytes that it holds on a device, and its peak."""
        told = self.memory(device)
        most = told.on_device(placing.least_offload(self.load_options, device))
        return most - told.activations, most

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Load the pipeline for a device; returns self.

        Raises ModelError if it does not fit or its files are damaged, and ConfigError for options that it
        cannot have.
        """
        device = torch.device(kwargs.get("device", args[0] if args else self._device))
        if self._pipes and device == self._device:
            return self
        offload = placing.choose_offload(self.memory(device), self.load_options, device)
        with running.explained(self.load_options, device, offload):
            loaded = components.load_components(self.layout, self.load_options, device)
            pipe = components.build(self.layout, self.kind, loaded)
            denoiser = getattr(pipe, self.kind.denoiser)
            for number, one in enumerate(self._added):
                adapters.put(denoiser, one, f"part{number}")
            if self._added and self.load_options.quantize == "none":
                adapters.merge(denoiser)
            placing.place(pipe, self.kind, self.load_options, device, offload)
        self._pipes, self._device, self.offload = {"sample": pipe}, device, offload
        networks = {name: one for name, one in pipe.components.items() if isinstance(one, nn.Module)}
        self.networks = nn.ModuleDict(networks)
        return self

    def sample_defaults(self) -> Mapping[str, Any]:
        return self.call_rules.options

    def painting_steps(self, **options: Any) -> int:
        return int({**self.sample_defaults(), **options}["num_steps"])

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        size: tuple[int, int] | None = None,
        **options: Any,
    ) -> Tensor:
        """Sample an image per seed, at the size that is requested.

        size: (width, height) of `sizes`. options: those of `sample_defaults`.
        Raises ConfigError for options that the pipeline rejects, and where memory runs out.
        """
        width, height = size or (self.config.width, self.config.height)
        return self._run("sample", condition, seeds, on_step, options, {}, (width, height))

    def measure(self, text: str) -> tuple[int, int]:
        """Return how many tokens a text has, and how many are read."""
        tokenizer = _last_tokenizer(self.pipe)
        if tokenizer is None:
            return 0, 0
        ids = tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"]
        return len(ids), self.call_rules.tokens or int(tokenizer.model_max_length)

    def _own_size(self) -> tuple[int, int]:
        size = self.load_options.size
        if size is None:
            return learned_size(self.layout, self.kind)
        if size[0] % self.multiple or size[1] % self.multiple:
            raise ConfigError(
                f"size={size[0]}x{size[1]} does not suit this pipeline: use multiples of {self.multiple}."
            )
        return size

    def _tokens(self) -> int:
        return self.call_rules.tokens or _USUAL_TOKENS

    def _pipe(self, task: _Task) -> Any:
        if not self._pipes:
            self.to(self._device)
        if task != "sample" and task not in self._pipes:
            self._pipes[task] = components.for_images(self._pipes["sample"], task)
        return self._pipes[task]

    def _run(
        self,
        task: _Task,
        condition: Condition,
        seeds: Sequence[int],
        on_step: OnStep | None,
        options: Mapping[str, Any],
        images: Mapping[str, Tensor | float],
        size: tuple[int, int],
    ) -> Tensor:
        """Compute images of some rows, `[n, 3, h, w]` float32 in [-1, 1].

        images: arguments of the pipeline; tensors have a row for each image.
        Where the length of one text changes the others inside, rows of one text are computed together; they
        repeat until there are as many as there were.
        """
        texts = condition.text or ("",) * len(seeds)
        negative = condition.negative_text
        groups = [list(range(len(seeds)))] if self.kind.fixed_text else _alike(texts, negative)
        made: Tensor | None = None

        for number, rows in enumerate(groups):
            every = [rows[place % len(rows)] for place in range(len(seeds))]

            def report(
                done: int,
                total: int,
                preview: Callable[[], Tensor],
                number: int = number,
                made: Tensor | None = made,
                rows: list[int] = rows,
            ) -> None:
                assert on_step is not None
                shown = functools.partial(_placed, made, rows, preview, len(seeds))
                on_step(number * total + done, len(groups) * total, shown)

            found = self._call(
                task,
                [texts[row] for row in every],
                None if negative is None else [negative[row] for row in every],
                [seeds[row] for row in every],
                report if on_step is not None else None,
                options,
                {name: one[every] if isinstance(one, Tensor) else one for name, one in images.items()},
                size,
            )
            made = _placed(made, rows, lambda found=found: found, len(seeds))  # type: ignore[misc]
        assert made is not None
        return made

    def _call(
        self,
        task: _Task,
        texts: Sequence[str],
        negative: Sequence[str] | None,
        seeds: Sequence[int],
        on_step: OnStep | None,
        options: Mapping[str, Any],
        images: Mapping[str, Any],
        size: tuple[int, int],
    ) -> Tensor:
        """Call a pipeline once."""
        pipe = self._pipe(task)
        taken = parameters_of(pipe.__class__)
        given = self.call_rules.arguments(texts, negative, options, taken)
        given |= {name: value for name, value in images.items() if name in taken}
        given |= {
            name: value for name, value in {"width": size[0], "height": size[1]}.items() if name in taken
        }
        given["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        placed = running.Placed(pipe, self.load_options, self._device, self.offload)
        return running.images(placed, given, taken, size, on_step).to(self._device) * 2 - 1


class VaryingPipeline(Pipeline):
    """A pipeline that also varies images."""

    def vary(
        self,
        images: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Add noise to images and remove it again.

        strength: the share of the steps that is taken, at least one; 0 returns the images, and 1 samples.
        options: as of `sample`.
        """
        size = images.shape[3], images.shape[2]
        if strength == 0:
            return images
        if strength == 1:
            return self.sample(condition, seeds=seeds, on_step=on_step, size=size, **options)
        given: dict[str, Tensor | float] = {"image": _to_unit(images)}
        given["strength"] = self._strength(strength, options)
        return self._run("vary", condition, seeds, on_step, options, given, size)

    def _strength(self, strength: float, options: Mapping[str, Any]) -> float:
        """Return a strength that takes a step at least."""
        steps = self.painting_steps(**options)
        return strength if int(steps * strength) >= 1 else 1 / steps + 1e-9


class EditingPipeline(VaryingPipeline):
    """A pipeline that also fills parts of images."""

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float = 1.0,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Sample what `mask` covers so that it suits the rest.

        strength: below 1, what was there before shines through.
        options: as of `sample`.
        """
        if strength == 0:
            return images
        size = images.shape[3], images.shape[2]
        given: dict[str, Tensor | float] = {"image": _to_unit(images), "mask_image": mask}
        given["strength"] = self._strength(strength, options)
        made = self._run("fill", condition, seeds, on_step, options, given, size)
        return torch.where(mask > 0, made.to(images), images)


def _encoder_of(layout: Layout) -> str:
    """Return what reads texts, for people: the classes of the encoders."""
    kinds = [one.kind for name, one in layout.components.items() if name.startswith("text_encoder")]
    return " and ".join(dict.fromkeys(kinds)) or "the pipeline"


def _last_tokenizer(pipe: Any) -> Any:
    """Return the tokenizer of the encoder that reads the longest texts, the last one."""
    for ending in ("_3", "_2", ""):
        if getattr(pipe, f"text_encoder{ending}", None) is not None:
            return getattr(pipe, f"tokenizer{ending}", None)
    return None


def _alike(texts: Sequence[str], negative: Sequence[str] | None) -> list[list[int]]:
    """Return the rows of each text and negative text, in the order of their first ones."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault((text, "" if negative is None else negative[row]), []).append(row)
    return list(groups.values())


def _placed(made: Tensor | None, rows: Sequence[int], images: Callable[[], Tensor], count: int) -> Tensor:
    """Return images with the first ones of others in some rows; what is not there yet is grey."""
    found = images()
    whole = found.new_zeros(count, *found.shape[1:]) if made is None else made.clone()
    whole[list(rows)] = found[: len(rows)].to(whole)
    return whole


def _to_unit(images: Tensor) -> Tensor:
    """Turn images in [-1, 1] into values in [0, 1], as pipelines take them."""
    return (images.float() + 1) / 2
