"""The sections of a configuration: every setting with its type, range and default."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from danqing.data import Augment
from danqing.data.degrade import Degradation
from danqing.data.domains import parse_domains
from danqing.data.shards.stream import WINDOW
from danqing.data.sources import STREAM_OVER
from danqing.data.splits import HELD_OUT
from danqing.image_files.levels import is_range
from danqing.training.ema import LONGEST, SHORTEST

SHARED = {
    *("precision", "checkpointing", "log_every_steps", "checkpoint_seconds"),
    *("measure_seconds", "sample_grids", "sample_images", "grains", "fast_sums", "shard"),
}
"""Settings that both stages of a run share."""
FREE = ("checkpointing", "checkpoint_seconds", "measure_seconds", "shard")
"""Settings that may change when a run is resumed, since no result depends on them."""


class Section(BaseModel):
    """A table of settings, which allows no others and does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(Section):
    """How gradients change the weights.

    name: muon updates the hidden matrices that a family declares, and AdamW everything else. adamw8bit keeps
    its averages in 8 bits, by the package bitsandbytes.
    betas: of adam and adamw.
    final_betas: those that they approach in the burn-in; by default, they stay.
    momentum: of sgd and rmsprop.
    ns_steps: of the Newton-Schulz iteration of muon; fewer are faster.
    """

    name: Literal["adamw", "adam", "muon", "sgd", "rmsprop", "adamw8bit"] = "adam"
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
    domains: "SOURCE:TARGET", two labels whose images do not belong together.
    attributes: columns of numbers, categories or vectors.
    attribute_examples: how many images' attributes the model keeps, to draw what is not requested.
    masks: "IMAGES:MASKS" for two folders, the suffix of files beside the images ("_mask"), the column that
    names the mask, or "auto".
    boxes: "coco", a JSON file in COCO's format, "yolo", a column, "auto", or "masks" and "instances" for the
    connected regions and for the values of masks.
    label_sets: the column that holds several labels of an image, or "auto".
    clean: a clean list, as `danqing data clean` writes it: images that it drops are left out.
    ignore_reservations: train on images whose owners reserve this, if you have their permission.
    stream_over: the GiB of shards above which images are read from shards during training, instead of being
    decoded into the cache before. window: how many shards of streamed images are shuffled together.
    degrade: steps such as "blur,down4,noise,jpeg" that make a source image of each image, instead of pairs;
    "shrink4" with pairs says that their sources are a quarter as wide and high as their targets.
    augment: by default, what suits the data.
    generated: the share of each batch that is drawn from generated images. generator: the run folder, model
    folder or hub id that generates them. generated_images: how many there are.
    unlabelled: more images, without labels, of which the model of `init` gives a label to those that it is
    sure of. unlabelled_share: their share of each batch. confidence: the least probability of such a label.
    """

    buckets: bool = False
    channels: int = Field(0, ge=0, le=4)
    alpha: Literal["flatten", "keep"] = "flatten"
    background: str = "#ffffff"
    fit: Literal["crop", "pad", "stretch"] = "crop"
    range: tuple[float, float] | None = None
    pairs: str = ""
    domains: str = ""
    attributes: tuple[str, ...] = ()
    attribute_examples: int = Field(512, ge=0, le=100_000)
    masks: str = ""
    boxes: str = ""
    label_sets: str = ""
    clean: str = ""
    ignore_reservations: bool = False
    stream_over: float = Field(STREAM_OVER, ge=0)
    window: int = Field(WINDOW, ge=1, le=2**20)
    degrade: str = ""
    augment: Augment | None = None
    generated: float = Field(0.0, ge=0, lt=1)
    generator: str = ""
    generated_images: int = Field(10_000, ge=1)
    unlabelled: str = ""
    unlabelled_share: float = Field(0.5, gt=0, lt=1)
    confidence: float = Field(0.95, ge=0, le=1)

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.range is not None and not is_range(self.range):
            raise ValueError("range needs two numbers, the lower one first")
        if self.degrade:
            kinds = {step.kind for step in Degradation(self.degrade).steps}
            if self.pairs and kinds != {"shrink"}:
                raise ValueError(
                    "pairs have their source images, which only shrink may change: leave degrade or pairs out"
                )
        if self.domains and (self.degrade or self.pairs):
            raise ValueError("the source images of domains need no partners: leave degrade and pairs out")
        if self.domains:
            parse_domains(self.domains)
        return self

    def of_source(self) -> dict[str, Any]:
        """Return what `open_dataset` takes of these settings; the others change batches and the model."""
        own = {"augment", "attribute_examples", "degrade", "generated", "generator", "generated_images"}
        return self.model_dump(exclude=own | {"unlabelled", "unlabelled_share", "confidence"})


class TrainingConfig(Section):
    """How a run trains.

    Only the first seven settings change what is learnt.
    micro_batch: how many images of a batch are computed at once; the gradients of all parts are added up.
    "auto" is all images if memory is large enough. What a loss draws at random is drawn for each part.
    grains: a power of two. A batch is cut into so many parts, whose gradients are always added in the same
    order, so that any number of processes up to that computes the same weights. Each part has its own random
    numbers and batch norm. fast_sums: add gradients in the order that is fastest; the weights then depend on
    the number of processes. shard: keep the state of the optimiser in parts, one in each process, to save
    memory; "parameters" does the same with the weights and averages of blocks. No result depends on it. True
    means "optimizer".
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
    grains: int = Field(1, ge=1, le=65_536)
    fast_sums: bool = False
    shard: bool | Literal["optimizer", "parameters"] = False
    checkpointing: Literal["auto", "on", "off"] = "auto"
    log_every_steps: int = Field(25, ge=1)
    checkpoint_seconds: float = Field(60.0, gt=0)
    measure_seconds: float = Field(1.5, gt=0)
    sample_grids: int = Field(10, ge=1)
    sample_images: int = Field(64, ge=1, le=1024)

    @model_validator(mode="after")
    def _has_a_tree(self) -> Self:
        if self.grains & (self.grains - 1):
            raise ValueError(f"grains must be a power of two, and it is {self.grains}")
        if self.grains > 1 and self.micro_batch != "auto":
            raise ValueError("grains are computed one by one: leave micro_batch at auto, or grains at 1")
        return self

    @model_validator(mode="after")
    def _has_lengths_to_combine(self) -> Self:
        if len(self.ema_lengths) == 1:
            raise ValueError("ema_lengths needs at least two lengths, such as [0.05, 0.1]")
        if list(self.ema_lengths) != sorted(set(self.ema_lengths)):
            raise ValueError("ema_lengths must ascend")
        return self


class PrivateConfig(Section):
    """Differential privacy for the training images (DP-SGD); without this section, there is none.

    epsilon: how much the model may say of any one image, at most; less is more private. delta: the
    probability with which that may fail, at most one in the number of images.
    clip: the most length of the gradient of an image.
    draws: how many times a loss draws its random numbers for an image, before its gradient is clipped. More
    makes gradients less noisy, costs time and no privacy.
    secure: draw a secret key for the run, from which noise and batches follow. Otherwise they follow from
    `seed`, and the guarantee holds only for those who do not know or guess it.
    """

    epsilon: float = Field(8.0, gt=0, le=1000)
    delta: float = Field(1e-5, gt=0, lt=1)
    clip: float = Field(0.1, gt=0, allow_inf_nan=False)
    draws: int = Field(1, ge=1, le=1024)
    secure: bool = False


class AdapterConfig(Section):
    """An adapter of the model of `init`; without this section, all weights are trained.

    rank: of its matrices: more can learn more, and make a larger file. alpha: multiplies what they add,
    divided by the rank; by default, the rank.
    targets: the layers that get one: "all" linear layers and convolutions, or patterns of their names such as
    "*.attention.*".
    trigger: a word that means what is learned. A model that reads text finds it before every caption. For a
    model with labels, it is the one of its labels that images without a label have.
    prior: the share of each batch that is drawn from images of the model itself, so that it forgets less.
    prior_images: how many there are.
    """

    rank: int = Field(6, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] = Field(("all",), min_length=1)
    trigger: str = Field("", max_length=200)
    prior: float = Field(0.0, ge=0, lt=1)
    prior_images: int = Field(200, ge=1, le=100_000)


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
