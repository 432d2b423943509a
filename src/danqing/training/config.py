"""The configuration of a run: from presets, files and `key=value` settings to one checked, frozen object."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from danqing import presets
from danqing.data import Augment, Dataset
from danqing.data.captions import captions_of
from danqing.data.degrade import Degradation
from danqing.data.splits import HELD_OUT
from danqing.errors import ConfigError, explain
from danqing.families import can_sample, config_class, parse_config
from danqing.families.base import FamilyConfig, ReadsText
from danqing.image_files.levels import is_range

AUTO_MINUTES, AUTO_IMAGES, AUTO_DATA = 20, 2_000_000, 1000
"""From which budget, and which number of images in the data, a run is evaluated unasked."""
SHARED = {
    *("precision", "log_every_steps", "checkpoint_seconds"),
    *("measure_seconds", "sample_grids", "sample_images"),
}
"""Settings of the engine that both stages of a run have in common, since none changes what is learnt."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(_Section):
    """How weights follow gradients. `betas` are Adam's; `momentum` is read by sgd and rmsprop. muon is for
    the matrices between hidden layers, as a family declares them; all else follows AdamW.
    """

    name: Literal["adamw", "adam", "muon", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class ScheduleConfig(_Section):
    """How the learning rate changes: a linear warm-up, then constant, or a cosine down to
    `final_fraction`.
    """

    name: Literal["constant", "cosine"] = "constant"
    warmup_images: int = Field(0, ge=0)
    final_fraction: float = Field(0.0, ge=0, le=1)


class DataConfig(_Section):
    """How images are prepared; `channels=0` keeps what the data has, `augment` absent takes the data's
    advice.

    range: the [low, high] that become black and white where values have more than 8 bits; absent takes one
    that suits the data. pairs: "SOURCES:TARGETS" for two folders, "side-by-side", "side-by-side-reversed", or
    the column that names the source image. attributes: columns of numbers, categories or vectors.
    attribute_examples: how many images' attributes the model keeps, to draw what is not requested. degrade:
    steps such as "blur,down4,noise,jpeg" that make a source image of each image, where there are no pairs.
    """

    channels: int = Field(0, ge=0, le=4)
    alpha: Literal["flatten", "keep"] = "flatten"
    background: str = "#ffffff"
    fit: Literal["crop", "pad", "stretch"] = "crop"
    range: tuple[float, float] | None = None
    pairs: str = ""
    attributes: tuple[str, ...] = ()
    attribute_examples: int = Field(512, ge=0, le=100_000)
    degrade: str = ""
    augment: Augment | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.range is not None and not is_range(self.range):
            raise ValueError("range needs two numbers, the lower one first")
        if self.degrade and self.pairs:
            raise ValueError("pairs have their source images: leave degrade or pairs out")
        if self.degrade:
            Degradation(self.degrade)
        return self


class TrainingConfig(_Section):
    """The engine's settings; none of them changes what is learnt, save the first four."""

    ema_half_life_images: int = Field(10_000, ge=0)
    clip_norm: float = Field(0.0, ge=0)
    accumulate: int = Field(1, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    log_every_steps: int = Field(25, ge=1)
    checkpoint_seconds: float = Field(60.0, gt=0)
    measure_seconds: float = Field(1.5, gt=0)
    sample_grids: int = Field(10, ge=1)
    sample_images: int = Field(64, ge=1, le=1024)


class EvaluationConfig(_Section):
    """How the moving average is scored on images that training never sees.

    every_images: how often; 0 is never, "tenth" every tenth of the budget; "auto" is that for runs of 20
    minutes or 2,000,000 images on 1,000 images or more, and never for others, and is settled when a run
    begins. samples: how many images are painted for it. held_out: the share of the training images that is
    kept aside where the data has no validation split. patience_images: end the run when the score has not
    improved for so many images; 0 is never. keep: whether the model folder gets the best-scored weights or
    the last: only the last can be judged by the same images without flattery.
    """

    every_images: Annotated[int, Field(ge=0)] | Literal["auto", "tenth"] = "auto"
    metric: Literal["kernel", "frechet"] = "kernel"
    features: str = "auto"
    samples: int = Field(1000, ge=10)
    held_out: float = Field(HELD_OUT, gt=0, lt=1)
    patience_images: int = Field(0, ge=0)
    keep: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.patience_images and self.every_images == 0:
            raise ValueError("patience_images needs evaluation.every_images")
        if self.patience_images and self.keep == "last":
            raise ValueError('patience_images needs evaluation.keep="best"')
        return self


class TokenizerConfig(_Section):
    """The first stage of a family that writes codes: a tokenizer, trained before it or brought along.

    preset, settings: what it is trained with, `settings` as the preset's own file has them. Once read they
    are `settings` alone, all of them and the family too, and `preset` is "": a run stays what it is when a
    preset changes. Images and how they are prepared are the run's. share: of the run's budget that it gets.
    model: a run folder, a model folder or a hub id whose tokenizer is taken instead; nothing is trained then,
    and the three are not read. views: how many times each image is turned into codes, changed by the
    augmentation otherwise each time; once where nothing is changed.
    """

    preset: str = "vqvae-32"
    model: str = ""
    settings: dict[str, Any] = {}
    share: float = Field(0.35, gt=0, lt=1)
    views: int = Field(4, ge=1, le=256)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("model"):
            return values
        settings = values.get("settings", {})
        if not isinstance(settings, dict):
            return values  # what is wrong is named afterwards
        preset = values.get("preset", "" if "family" in settings else cls.model_fields["preset"].default)
        if not isinstance(preset, str):
            return values
        return {**values, "preset": "", "settings": _whole(preset, settings)}


class RunConfig(_Section):
    """Everything needed to repeat a run. `size` is (width, height); the budget is `images` or `minutes`, for
    both stages together where there is a `tokenizer`. A family that writes codes and is given none writes
    pixels.
    """

    description: str = ""
    family: str
    source: str = ""
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

    @model_validator(mode="before")
    @classmethod
    def _choose_the_family(cls, values: Any) -> Any:
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
        if self.batch_size % self.training.accumulate:
            raise ValueError("batch_size must be a multiple of training.accumulate")
        if self.images is not None and self.minutes is not None:
            raise ValueError("give images or minutes, not both")
        scored = self.evaluation.every_images not in (0, "auto") or self.evaluation.patience_images
        if scored and not can_sample(self.family):
            raise ValueError(f"a {self.family} samples no images to score: set evaluation.every_images=0")
        if self.tokenizer is not None and "tokenizer" not in type(self.model).model_fields:
            raise ValueError(f"a {self.family} has no tokenizer: choose a preset such as text2image-32")
        return self

    def for_data(self, dataset: Dataset, tokenizer: FamilyConfig | None = None) -> Self:
        """The same configuration, with the model's image shape, labels, captions and whatever else it takes
        from the data, and with the tokenizer that was trained on it.

        Raises ConfigError where some of the images have labels and others have none, and where the model
        reads text and no image has a caption.
        """
        width, height = dataset.size
        if self.data.attributes and not self.model.reads_attributes:
            raise ConfigError(f"A {self.family} does not learn from attributes: leave data.attributes out.")
        if dataset.has_pairs and not self.model.reads_source:
            raise ConfigError(f"A {self.family} does not learn from pairs: leave data.pairs out.")
        if self.data.degrade and not self.model.reads_source:
            raise ConfigError(f"A {self.family} does not restore images: leave data.degrade out.")
        if self.model.reads_source and not (dataset.has_pairs or self.data.degrade):
            raise ConfigError(
                "This model learns to make an image from another: declare them by --pairs A:B, or let them "
                "be made by --set data.degrade=blur,noise."
            )
        labels = dataset.label_names if self.model.reads_labels else ()
        bare = 0 if dataset.labels is None else int((dataset.labels < 0).sum())
        if labels and bare:
            raise ConfigError(
                f"{bare} of {len(dataset)} images have no label: label them too, or learn without labels by "
                "--set conditional=false."
            )
        shape = {
            "width": width,
            "height": height,
            "channels": dataset.channels,
            "labels": labels,
            "label_frequencies": dataset.label_frequencies if labels else (),
            "label_captions": dataset.label_captions if labels else (),
        }
        if self.model.reads_attributes and dataset.attributes:
            examples = dataset.attribute_examples(self.data.attribute_examples)
            if not labels:
                examples = tuple(example.model_copy(update={"label": -1}) for example in examples)
            shape |= {"attributes": dataset.attributes, "attribute_examples": examples}
        if self.model.reads_source:
            made = self.data.degrade
            shape["source_channels"] = (
                Degradation(made).channels(dataset.channels) if made else dataset.channels
            )
        if tokenizer is not None:
            shape["tokenizer"] = tokenizer.model_dump()
        captions = self._captions(dataset)
        if isinstance(self.model, ReadsText):
            shape["captions"] = _evenly(captions, self.model.text.examples)
        model = parse_config({**self.model.model_dump(), **shape})
        model = model.complete([line for lines in captions for line in lines])
        return self.model_copy(update={"model": model, "size": dataset.size})

    def _captions(self, dataset: Dataset) -> list[list[str]]:
        """The captions of each image that has some, where the model reads text."""
        if not self.model.reads_text:
            return []
        texts = dataset.texts(np.arange(len(dataset))) or ()
        captions = [lines for text in texts if (lines := captions_of(text))]
        if not captions:
            looked = dataset.info.report.understood.get("Captions", "none")
            raise ConfigError(
                f"The model reads text, and no image of {dataset.info.name} has a caption "
                f"({looked}): write captions into a metadata.jsonl or into text files beside the images, or "
                "choose a preset that reads none."
            )
        return captions

    def evaluated(self, every_images: int | Literal["tenth"]) -> Self:
        """The same configuration with "auto" settled; raises ConfigError where patience then has no sense."""
        if self.evaluation.every_images != "auto":
            return self
        if not every_images and self.evaluation.patience_images:
            raise ConfigError(
                "This run holds no images out, and cannot be given patience: choose another --out."
            )
        evaluation = self.evaluation.model_copy(update={"every_images": every_images})
        return self.model_copy(update={"evaluation": evaluation})

    def is_worth_evaluating(self, images: int) -> bool:
        """What "auto" comes to for a data set of so many images."""
        if self.evaluation.patience_images:
            return True
        if not can_sample(self.family):
            return False
        long = (self.minutes or 0) >= AUTO_MINUTES or (self.images or 0) >= AUTO_IMAGES
        return long and images >= AUTO_DATA

    def to_toml(self) -> str:
        """The configuration as TOML that reads back as an equal object; what the data decides is left out."""
        text = tomli_w.dumps({key: value for key, value in self.plain().items() if value != ""})
        return re.sub(r"\[\n((?: {4}[^\n]*,\n)+)\]", _on_one_line, text)

    def plain(self) -> dict[str, Any]:
        """The configuration as plain values, without what the data decides."""
        values = self.model_dump(mode="json", exclude_none=True)
        from_data = self.model.from_data
        values["model"] = {key: value for key, value in values["model"].items() if key not in from_data}
        return values


def from_toml(path: Path) -> RunConfig:
    """Read a configuration file; raises ConfigError."""
    return parse(read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The plain values of a TOML file; raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file at {path}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from error


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Check plain values; raises ConfigError with every mistake that was found."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def resolve(
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> RunConfig:
    """The configuration that a user asked for: a preset or a file, then settings, then the given `overrides`.

    A setting's key is a dotted path (`optimizer.learning_rate`), or a bare name that only one section has
    (`net`, `learning_rate`), or a section that is chosen by name (`optimizer=sgd`); its value is TOML or
    text.
    """
    if preset is not None and config is not None:
        raise ConfigError("Give a preset or a configuration file, not both.")
    values = read_toml(Path(config)) if config is not None else presets.read(preset or "gan-32")
    given = {key: value for key, value in overrides.items() if value is not None}
    budget = {"images", "minutes"} & {*given, *(settings or {})}
    if len(budget) == 2:
        raise ConfigError("Give --images or --minutes, not both.")
    if budget:
        values.pop("images", None)
        values.pop("minutes", None)
    for key, text in (settings or {}).items():
        apply_setting(values, key, text)
    return parse({**values, **given})


def apply_setting(values: dict[str, Any], key: str, value: Any) -> None:
    """Put one `key=value` setting into plain values, in place; raises ConfigError for a key that is not
    there.
    """
    *sections, name = full_name(key, str(values.get("family", ""))).split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = _parse_value(value) if isinstance(value, str) else value


def full_name(key: str, family: str) -> str:
    """The dotted path of the setting that `key` means for a family; raises ConfigError if there is none."""
    keys = list(_keys(family))
    matches = [k for k in keys if key == k or key == k.rpartition(".")[2] or f"{key}.name" == k]
    exact = [k for k in matches if k in (key, f"{key}.name")]
    # Bare names mean what is learnt first: `features` is the model's, not the evaluation's. Those of the
    # tokenizer (`model`, `share`) are too general to stand alone.
    meant = [k for k in matches if k.startswith("tokenizer.")]
    matches = exact or [k for k in matches if k not in meant]
    matches = [k for k in matches if not k.startswith("evaluation.")] or matches
    if not matches:
        nested = [k for k in keys if key.startswith(f"{k}.")]  # data.augment.flip
        matches = [key] if nested else []
    if len(matches) != 1:
        names = keys + [k.rpartition(".")[2] for k in keys]
        near = matches or meant or difflib.get_close_matches(key, names, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else " `danqing presets NAME` shows them all."
        raise ConfigError(f"There is no setting called {key!r}.{hint}")
    return matches[0]


_OF_A_TOKENIZER = ("family", "batch_size", "seed", "model", "optimizer", "schedule", "training")


def _whole(preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that a tokenizer is trained with: a preset changed by `settings`, or these alone, where the preset
    is "". Raises ConfigError for what only the run can say.
    """
    if preset and "family" in settings:
        raise ConfigError(
            "tokenizer.settings has everything, the family too: change it there, or remove "
            f"[tokenizer.settings] to take the preset {preset}."
        )
    values = presets.read(preset) if preset else {"family": settings.get("family", "")}
    values.pop("tokenizer", None)
    named = {full_name(key, str(values["family"])): value for key, value in flat(settings).items()}
    for name, value in named.items():
        if name in ("images", "minutes"):
            raise ConfigError(
                f"tokenizer.settings has no {name}: the tokenizer gets tokenizer.share of the run's budget."
            )
        if name.split(".")[0] not in _OF_A_TOKENIZER:
            raise ConfigError(f"tokenizer.settings has no {name}: set {name} of the run, for both stages.")
        apply_setting(values, name, value)
    whole = {key: value for key, value in parse(values).plain().items() if key in _OF_A_TOKENIZER}
    if "seed" not in named:
        del whole["seed"]
    for name in SHARED - {name.removeprefix("training.") for name in named}:
        del whole["training"][name]
    return whole


FREE = ("checkpoint_seconds", "measure_seconds")
"""Settings of the engine that may change when a run goes on: no result depends on them."""


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """What changed between two configurations, one `key: old → new` each; the budget and the patience may
    change and are left out.
    """
    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    free = {"images", "minutes", "description", "evaluation.patience_images"}
    free |= {f"{section}.{name}" for section in ("training", "tokenizer.settings.training") for name in FREE}
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in free
    ]


def _keys(family: str) -> Iterator[str]:
    """The dotted paths of all settings; what a model takes from the data cannot be set."""
    hidden = config_class(family).from_data
    sections: dict[str, type[BaseModel]] = {
        "model": config_class(family),
        "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
        "data": DataConfig,
        "training": TrainingConfig,
        "evaluation": EvaluationConfig,
        "tokenizer": TokenizerConfig,
    }
    for name in RunConfig.model_fields:
        if name not in sections:
            yield name
            continue
        taken = hidden if name == "model" else {"family"}
        yield from (f"{name}.{field}" for field in sections[name].model_fields if field not in taken)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _evenly(captions: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    """At most so many captions, from all over the data; of an image with several, now one and now another."""
    count = min(most, len(captions))
    places = [number * len(captions) // count for number in range(count)]
    chosen = (captions[place][number % len(captions[place])] for number, place in enumerate(places))
    return tuple(dict.fromkeys(chosen))


def _on_one_line(array: re.Match[str]) -> str:
    return f"[{', '.join(line.strip().rstrip(',') for line in array[1].splitlines())}]"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one table with dotted keys."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        table |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return table
