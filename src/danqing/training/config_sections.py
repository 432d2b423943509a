"""The sections of a configuration: every setting with its type, range and default."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from danqing.data import Augment
from danqing.data.degrade import Degradation
from danqing.data.splits import HELD_OUT
from danqing.image_files.levels import is_range
from danqing.training.ema import LONGEST, SHORTEST

SHARED = {
    *("precision", "checkpointing", "log_every_steps", "checkpoint_seconds"),
    *("measure_seconds", "sample_grids", "sample_images"),
}
"""Settings that both stages of a run share, since none of them changes what is learnt."""
FREE = ("checkpointing", "checkpoint_seconds", "measure_seconds")
"""Settings that may change when a run is resumed, since no result depends on them."""


class Section(BaseModel):
    """A table of settings, which allows no others and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(Section):
    """How gradients change the weights.

    name: muon updates the hidden matrices that a family declares, and AdamW everything else.
    betas: of adam and adamw.
    final_betas: those that they approach in the burn-in; by default, they stay.
    momentum: of sgd and rmsprop.
    ns_steps: of the Newton-Schulz iteration of muon; fewer are faster.
    """

    name: Literal["adamw", "adam", "muon", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    final_betas: tuple[float, float] | None = None
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    ns_steps: int = Field(5, ge=1, le=20)


class ScheduleConfig(Section):
    """How the learning rate changes, and what else changes during a run.

    The learning rate: a linear warm-up, then a constant, or a cosine down to `final_fraction`.
    burn_in: the share of the run in which settings with a final value, such as `optimizer.final_betas`,
    approach it.
    grow_fractions: the share of the run's images at each size of `model.grow`; by default, as many at each.
    """

    name: Literal["constant", "cosine"] = "constant"
    warmup_images: int = Field(0, ge=0)
    final_fraction: float = Field(0.0, ge=0, le=1)
    burn_in: float = Field(0.4, ge=0, le=1)
    grow_fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()


class DataConfig(Section):
    """How images are prepared.

    buckets: bring each image to the one of a few sizes whose aspect ratio is nearest to its own, instead of
    all to one size; their area is about that of `size`.
    channels: 0 keeps those of the data.
    range: where values have more than 8 bits, the [low, high] that become black and white; by default, a
    range that suits the data.
    pairs: "SOURCES:TARGETS" for two folders, "side-by-side", "side-by-side-reversed", or the column that
    names the source image.
    attributes: columns of numbers, categories or vectors.
    attribute_examples: how many images' attributes the model keeps, to draw what is not requested.
    degrade: steps such as "blur,down4,noise,jpeg" that make a source image of each image, instead of pairs.
    augment: by default, what suits the data.
    """

    buckets: bool = False
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

    def of_source(self) -> dict[str, Any]:
        """Return what `open_dataset` takes of these settings; the others change batches and the model."""
        return self.model_dump(exclude={"augment", "attribute_examples", "degrade"})


class TrainingConfig(Section):
    """How a run trains.

    Only the first five settings change what is learnt.
    micro_batch: how many images of a batch are computed at once; the gradients of all parts are added up.
    "auto" is all images if memory is large enough. What a loss draws at random is drawn for each part.
    checkpointing: compute the activations of blocks again in the backward pass instead of keeping them.
    "auto" does so if memory is short. It takes about a third more time and changes no result.
    ema_lengths: keep averages of the weights whose widths are these shares of the run, in ascending order,
    instead of one with a half-life. The average of any other length can then be computed after training.
    """

    ema_half_life_images: int = Field(10_000, ge=0)
    ema_lengths: tuple[Annotated[float, Field(ge=SHORTEST, le=LONGEST)], ...] = Field((), max_length=4)
    clip_norm: float = Field(0.0, ge=0)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: Literal["auto", "on", "off"] = "auto"
    log_every_steps: int = Field(25, ge=1)
    checkpoint_seconds: float = Field(60.0, gt=0)
    measure_seconds: float = Field(1.5, gt=0)
    sample_grids: int = Field(10, ge=1)
    sample_images: int = Field(64, ge=1, le=1024)

    @model_validator(mode="after")
    def _has_lengths_to_combine(self) -> Self:
        if len(self.ema_lengths) == 1:
            raise ValueError("ema_lengths needs at least two lengths, such as [0.05, 0.1]")
        if list(self.ema_lengths) != sorted(set(self.ema_lengths)):
            raise ValueError("ema_lengths must ascend")
        return self


class EvaluationConfig(Section):
    """How the moving average is scored on held-out images.

    every_images: how often; 0 is never, "tenth" is every tenth of the budget. "auto" is "tenth" for runs of
    20 minutes or 2,000,000 images on data of 1,000 images or more, and 0 for others; it is decided when the
    run begins.
    samples: the number of images to sample for a score.
    held_out: the share of the training images to hold out if the data has no validation split.
    patience_images: end the run when the score has not improved for this many images; 0 is never.
    keep: whether the model folder gets the weights with the best score or the last ones. Later scores on the
    same images flatter the best weights, since those images chose them.
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


class TokenizerConfig(Section):
    """The tokenizer of a family that generates codes or latents: trained first, or given.

    preset, settings: what it is trained with; `settings` has the keys of a preset's file. When a
    configuration is parsed, the preset is written out into `settings` and becomes "", so that a run does not
    change when a preset does. The images and their preparation are the run's.
    model: a run folder, a model folder or a hub id whose tokenizer is used. Nothing is then trained, and
    `preset`, `settings` and `share` are ignored.
    share: the tokenizer's share of the run's budget.
    views: how many times each image is encoded, with another augmentation each time; once if there is no
    augmentation.
    """

    preset: str = "vqvae-32"
    model: str = ""
    settings: dict[str, Any] = {}
    share: float = Field(0.35, gt=0, lt=1)
    views: int = Field(4, ge=1, le=256)
