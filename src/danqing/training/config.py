"""The configuration of a run: how its settings fit together, and what the model takes from the data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import tomli_w
from pydantic import Field, SerializeAsAny, model_validator

from danqing.data import Dataset
from danqing.data.captions import captions_of
from danqing.data.degrade import Degradation
from danqing.errors import ConfigError
from danqing.evaluation.learner_scores import has_own_score
from danqing.families import can_sample, cannot, config_class, implementing, parse_config
from danqing.families.abilities import SamplesSizes
from danqing.families.base import FamilyConfig, ReadsText
from danqing.training.config_sections import (
    FREE,
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PrivateConfig,
    ScheduleConfig,
    Section,
    TokenizerConfig,
    TrainingConfig,
)

TaskName = (
    Literal["upscale", "enhance", "translate", "colorize", "fill", "style"]
    | Literal["classify", "segment", "detect", "embed"]
)
"""What a model that edits or recognizes images is for."""
AUTO_MINUTES, AUTO_IMAGES, AUTO_DATA = 20, 2_000_000, 1000
"""A run is evaluated by default from this budget on, and from this number of images in its data on."""
AUTO_RECOGNITION = 200
"""A run of recognition is evaluated by default from this number of images in its data on."""
PRIVATE_MICRO_BATCH = 64
"""Images computed at once in a private run, whose gradients are all kept: more are hardly faster."""


class RunConfig(Section):
    """Everything needed to repeat a run.

    task: what the model is for, if it edits or recognizes images; its card and the commands that use it
    depend on this.
    size: (width, height) in pixels.
    images, minutes: the budget, one of the two, for both stages together if there is a tokenizer.
    init: a run folder, a model folder or a hub id whose weights the run starts from, as far as they fit.
    teacher: a run folder, a model folder or a hub id whose outputs the model learns besides the images.
    tokenizer: the first stage of a family that generates codes or latents; without one, such a family
    generates pixels.
    private: what is guaranteed to the people in the images; nothing without it.
    adapter: an adapter that is trained instead of the model of `init`.
    """

    description: str = ""
    task: TaskName | Literal[""] = ""
    family: str
    source: str = ""
    init: str = ""
    teacher: str = ""
    size: tuple[int, int] | None = None
    batch_size: int = Field(64, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    images: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    model: SerializeAsAny[FamilyConfig]
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tokenizer: TokenizerConfig | None = None
    private: PrivateConfig | None = None
    adapter: AdapterConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _choose_family(cls, values: Any) -> Any:
        if not isinstance(values, dict) or isinstance(values.get("model"), FamilyConfig):
            return values
        family = values.get("family")
        if not isinstance(family, str):
            raise ConfigError('A configuration needs a family, for instance: family = "gan".')
        chosen = values.get("model", {})
        if not isinstance(chosen, dict):
            raise ConfigError('`model` must be a table of settings, for instance: [model] and net = "mlp".')
        model = config_class(family).model_validate({"family": family, **chosen})
        return {**values, "model": model}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.images is not None and self.minutes is not None:
            raise ValueError("give images or minutes, not both")
        scored = self.evaluation.every_images not in (0, "auto") or self.evaluation.patience_images
        if scored and not (can_sample(self.family) or has_own_score(self.family)):
            raise ValueError(f"a {self.family} samples no images to score: set evaluation.every_images=0")
        if self.data.buckets and not self.model.takes_sizes:
            raise ValueError(_why_one_size(self.model))
        if self.tokenizer is not None and "tokenizer" not in type(self.model).model_fields:
            raise ValueError(f"a {self.family} has no tokenizer: choose a preset such as flow-128")
        if self.batch_size % self.training.grains:
            raise ValueError(
                f"a batch of {self.batch_size} images has no {self.training.grains} equal grains: choose a "
                f"batch_size that is a multiple of {self.training.grains}"
            )
        if self.private is not None and self.training.grains > 1:
            raise ValueError(
                "the noise of a private run is drawn by one process: leave --processes out, and "
                "training.grains at 1"
            )
        if self.private is not None and self.teacher:
            raise ValueError("a teacher knows images that a private run must hide: leave teacher out")
        self._check_growing()
        if self.adapter is not None:
            self._check_adapter()
        return self

    @property
    def micro_batch(self) -> int:
        """Return how many images to compute at once if memory is large enough."""
        if self.training.grains > 1:
            return self.batch_size // self.training.grains
        wanted = self.training.micro_batch
        if wanted == "auto":
            wanted = PRIVATE_MICRO_BATCH if self.private else self.batch_size
        return min(wanted, self.batch_size)

    def _check_adapter(self) -> None:
        """Raise ValueError if the settings of a run that trains an adapter do not fit together."""
        if not self.init:
            raise ValueError("an adapter belongs to a model: name it by --init MODEL")
        others = {
            "private": self.private is not None,
            "teacher": bool(self.teacher),
            "model.grow": bool(self.model.grow),
            "training.ema_lengths": bool(self.training.ema_lengths),
            "training.shard": self.training.shard == "parameters",
            "data.generated": bool(self.data.generated or self.data.unlabelled),
        }
        if given := [name for name, is_set in others.items() if is_set]:
            raise ValueError(f"an adapter cannot be trained with {given[0]}: leave {given[0]} out")
        if self.adapter is not None and self.adapter.prior and (self.tokenizer or self.data.buckets):
            raise ValueError(
                "images of the model itself are learned in pixels of one size: set adapter.prior to 0, or "
                "train without a tokenizer and without buckets"
            )

    def _check_growing(self) -> None:
        """Raise ValueError if the settings of a run that grows do not fit together."""
        sizes, fractions = self.model.grow, self.schedule.grow_fractions
        if fractions and len(fractions) != len(sizes):
            raise ValueError(
                f"schedule.grow_fractions must have one number for each size of grow, and there are "
                f"{len(fractions)} for {len(sizes)}"
            )
        if fractions and abs(sum(fractions) - 1) > 0.001:
            raise ValueError(
                f"schedule.grow_fractions must add up to 1, and they add up to {sum(fractions):g}"
            )
        if sizes and self.tokenizer is not None:
            raise ValueError(
                "a model that learns from the codes of a first stage does not grow: leave grow out"
            )
        if sizes and self.data.buckets:
            raise ValueError("images of several aspect ratios do not grow: leave grow or data.buckets out")
        if sizes and self.training.ema_lengths:
            raise ValueError(
                "an average over a share of the run would hold the first weights of sizes that begin late: "
                "leave training.ema_lengths or grow out"
            )

    def for_data(self, dataset: Dataset, first_stage: Mapping[str, Any] | None = None) -> Self:
        """Return this configuration with all that the model takes from the data.

        That is its image shape, labels and captions.

        first_stage: settings that the model takes from the tokenizer that was trained on the data.

        Raises ConfigError if only some of the images have labels, if the model reads text and no image has a
        caption, and if the data has attributes or pairs that the family does not read.
        """
        width, height = dataset.size
        if self.data.attributes and not self.model.reads_attributes:
            raise ConfigError(f"A {self.family} does not learn from attributes: leave data.attributes out.")
        if dataset.has_pairs and (not self.model.reads_source or self.model.reads_domains):
            raise ConfigError(f"A {self.family} does not learn from pairs: leave data.pairs out.")
        if self.data.degrade and (not self.model.reads_source or self.model.reads_domains):
            raise ConfigError(f"A {self.family} does not restore images: leave data.degrade out.")
        if dataset.sources is not None and not self.model.reads_domains:
            raise ConfigError(
                f"A {self.family} does not learn from two domains: leave data.domains out, or choose the "
                "preset translation-64."
            )
        if self.model.reads_domains and dataset.sources is None:
            raise ConfigError(
                "This model turns images of one kind into images of another, and the data has no two kinds: "
                "name two labels or class folders by --domains SOURCE:TARGET."
            )
        if self.model.reads_source and not (dataset.has_sources or self.data.degrade):
            raise ConfigError(
                "This model makes images from source images, and the data has none: declare pairs by --pairs "
                "A:B, or degrade each image by --degrade blur,noise."
            )
        labels = dataset.label_names if self.model.reads_labels else ()
        bare = int(dataset.label_counts[-1]) if dataset.label_names else 0
        if labels and bare:
            needs_labels = self.model.model_copy(update={"conditional": False}).reads_labels
            instead = "leave them out" if needs_labels else "train without labels: --set conditional=false"
            raise ConfigError(f"{bare} of {len(dataset)} images have no label: label them too, or {instead}.")
        shape = {
            "width": width,
            "height": height,
            "channels": dataset.channels,
            "sizes": dataset.sizes if len(dataset.sizes) > 1 else (),
            "labels": labels,
            "label_frequencies": dataset.label_frequencies if labels and not self.private else (),
            "label_captions": dataset.label_captions if labels and not self.private else (),
        }
        if self.model.reads_attributes and dataset.attributes:
            examples = dataset.attribute_examples(self.data.attribute_examples)
            if not labels:
                examples = tuple(example.model_copy(update={"label": -1}) for example in examples)
            shape |= {"attributes": dataset.attributes, "attribute_examples": examples}
        if self.model.reads_source:
            shape |= _of_source(dataset, self.data.degrade)
        targets = dataset.target_classes
        known = {
            "training_images": len(dataset),
            "training_batch": self.batch_size,
            "label_set": targets.label_set,
            "label_set_shares": _label_set_shares(dataset),
            "box_classes": targets.boxes,
            "mask_classes": targets.mask,
            "mask_shares": targets.mask_shares,
        }
        shape |= {name: value for name, value in known.items() if name in self.model.from_data}
        shape |= first_stage or {}
        captions = self._captions(dataset)
        if isinstance(self.model, ReadsText):
            shape["captions"] = _evenly(captions, self.model.text.examples)
        model = parse_config({**self.model.model_dump(), **shape})
        model.check_shape()
        model = model.complete([line for lines in captions for line in lines])
        return self.model_copy(update={"model": model, "size": dataset.size})

    def _captions(self, dataset: Dataset) -> list[list[str]]:
        """The captions of each image that has any, if the model reads text."""
        if not self.model.reads_text:
            return []
        texts = dataset.texts(dataset.surveyed_rows()) or ()
        captions = [lines for text in texts if (lines := captions_of(text))]
        if not captions:
            found = dataset.info.report.understood.get("Captions", "none")
            raise ConfigError(
                f"The model reads text, but no image of {dataset.info.name} has a caption ({found}): write "
                "captions to a metadata.jsonl or to text files beside the images, or choose a preset that "
                "does not read text."
            )
        return captions

    def with_evaluation(self, every_images: int | Literal["tenth"]) -> Self:
        """Return this configuration with `every_images` in place of "auto".

        Raises ConfigError if there is a patience and no evaluation.
        """
        if self.evaluation.every_images != "auto":
            return self
        if not every_images and self.evaluation.patience_images:
            raise ConfigError(
                "This run has no held-out images, so --patience cannot work: use another --out."
            )
        evaluation = self.evaluation.model_copy(update={"every_images": every_images})
        return self.model_copy(update={"evaluation": evaluation})

    def is_worth_evaluating(self, images: int) -> bool:
        """Whether "auto" means evaluation for a data set of this many images."""
        if self.private:
            return False
        if self.evaluation.patience_images:
            return True
        if has_own_score(self.family):
            return images >= AUTO_RECOGNITION
        if not can_sample(self.family):
            return False
        long = (self.minutes or 0) >= AUTO_MINUTES or (self.images or 0) >= AUTO_IMAGES
        return long and images >= AUTO_DATA

    def to_toml(self) -> str:
        """Return TOML that reads back as an equal configuration.

        What comes from the data is left out.
        """
        text = tomli_w.dumps({key: value for key, value in self.plain().items() if value != ""})
        return re.sub(r"\[\n((?: {4}[^\n]*,\n)+)\]", _on_one_line, text)

    def plain(self) -> dict[str, Any]:
        """Return plain values, without what comes from the data."""
        values = self.model_dump(mode="json", exclude_none=True)
        from_data = self.model.from_data
        values["model"] = {key: value for key, value in values["model"].items() if key not in from_data}
        return values


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """List the changes between two configurations as `key: old → new`.

    Changes that a resumed run allows, such as of its budget and its patience, are left out. So is the place
    of its images: their fingerprint says whether they are the same.
    """
    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    free = {"images", "minutes", "description", "task", "source", "evaluation.patience_images"}
    free |= {f"{section}.{name}" for section in ("training", "tokenizer.settings.training") for name in FREE}
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in free
    ]


def _why_one_size(model: FamilyConfig) -> str:
    """Say why a model cannot learn from buckets, and what to do."""
    if model.display_name in implementing(SamplesSizes):
        return (
            f"this {model.display_name} reads source images, samples in few steps, or noise chooses its "
            "images, so it needs one size: give a size such as 64x64, or set data.buckets = false"
        )
    return cannot(model, "learn images of several sizes", SamplesSizes).rstrip(".")


def _of_source(dataset: Dataset, degrade: str) -> dict[str, Any]:
    """Return what the source images of some data are like."""
    if not degrade:
        return {"source_channels": dataset.channels}
    made, is_opaque = Degradation(degrade), dataset.channels in (1, 3)
    return {
        "source_channels": made.channels(dataset.channels),
        "source_scale": made.scale,
        "source_is_average": made.is_average and is_opaque and not dataset.has_pairs,
    }


def _label_set_shares(dataset: Dataset) -> tuple[float, ...]:
    """Return the share of the images that have each label of the label sets."""
    if not dataset.target_classes.label_set:
        return ()
    found = dataset.targets_at(np.arange(len(dataset))).label_set
    return () if found is None else tuple(found.mean(0).tolist())


def _evenly(captions: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    """At most `most` captions, evenly spaced over the data; images with several take turns between them."""
    count = min(most, len(captions))
    places = [number * len(captions) // count for number in range(count)]
    chosen = (captions[place][number % len(captions[place])] for number, place in enumerate(places))
    return tuple(dict.fromkeys(chosen))


def _on_one_line(array: re.Match[str]) -> str:
    return f"[{', '.join(line.strip().rstrip(',') for line in array[1].splitlines())}]"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one table with dotted keys."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        table |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return table
