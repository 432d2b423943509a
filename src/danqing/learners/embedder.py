"""The embedder: turns images into vectors, and learns to do so from images without labels.

It learns that two random views of an image show the same thing, or what patches of an image hide. A vector
joins the last map of the trunk with histograms of edges, which need no training, along the directions in
which images differ most.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.families.base import Alarm, Batch, Learner, Losses, ParameterKind, Phase
from danqing.learners.agreement import agreement, cluster_loss, contrast_loss, vicreg_loss
from danqing.learners.trunk import TrunkConfig, build_trunk, trunk_parameter_kind
from danqing.nets.gradients import DIRECTIONS, edge_histograms
from danqing.nets.views import Changes, random_views
from danqing.nets.whitening import Whitening

PHASE = "embedder"
WINDOW = 20_000
"""About how many images the covariance of the vectors is averaged over."""
OBSERVED = 4
"""Each batch adds one in so many of its images to that average."""
PROJECTED = 128
"""The length of projections, where the objective compares their directions."""
FEWEST_TO_ALARM = 20_000
"""Images after which projections should differ."""


class EmbedderConfig(TrunkConfig):
    """Settings of an embedder.

    objective: what is learned. "contrast" finds the other view of an image among those of other images,
        "vicreg" makes two views alike, with numbers that vary and are uncorrelated, "clusters" predicts the
        cluster of one view from the other. "masked" predicts hidden patches, which suits further training
        (`--init`) more than search.
    projection: the width of the layers from the trunk to the objective. temperature: how sharply "contrast"
        and "clusters" tell views apart. prototypes: of "clusters".
    view: the sides of a view as a share of the image's; smaller views take less time. crop: the smallest
        share of an image that a view shows. flip: whether views may be mirrored. blur: by up to this many
        pixels. colour: saturation, contrast and brightness of views change by up to this fraction. cutout:
        the sides of a grey square in each view, as a share of the view's.
    hidden: the share of patches that "masked" hides. patch: their sides in pixels.
    places: parts a side in which a vector describes an image by the trunk. edges: the same of histograms of
        edges; 0 for none.
    length: of a vector, at most.
    whitening: how alike the directions of vectors count: at 0 by their variance, at 1 all the same.
    """

    display_name: ClassVar[str] = "embedder"

    family: Literal["embedder"] = "embedder"
    objective: Literal["contrast", "vicreg", "clusters", "masked"] = "contrast"
    projection: int = Field(512, ge=8, le=16_384)
    temperature: float = Field(0.2, gt=0)
    prototypes: int = Field(512, ge=2, le=65_536)
    view: float = Field(0.7, gt=0, le=2)
    crop: float = Field(0.3, gt=0, le=1)
    flip: bool = True
    blur: float = Field(0.0, ge=0, le=16)
    colour: float = Field(0.5, ge=0, le=1)
    cutout: float = Field(0.0, ge=0, lt=1)
    hidden: float = Field(0.6, gt=0, lt=1)
    places: int = Field(2, ge=1, le=16)
    edges: int = Field(7, ge=0, le=32)
    length: int = Field(256, ge=1, le=8192)
    whitening: float = Field(0.7, ge=0, le=1)

    @property
    def reads_labels(self) -> bool:
        return False

    @property
    def changes(self) -> Changes:
        """Return how views differ from their image."""
        return Changes((self.crop, 1.0), 4 / 3, self.flip, self.blur, self.colour, self.cutout)

    @property
    def view_size(self) -> tuple[int, int]:
        """Return the (height, width) of a view.

        An encoder that was lent may know one size alone.
        """
        if self.net == "lent":
            return self.height, self.width
        return max(4, round(self.height * self.view)), max(4, round(self.width * self.view))


class Embedder(Learner):
    """A trunk, and the statistics of what it says of images."""

    config: EmbedderConfig

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_trunk(config)
        parts = [self.trunk.outputs * config.places**2, DIRECTIONS * config.edges**2]
        self.whitening = Whitening(
            tuple(part for part in parts if part), config.length, config.whitening, WINDOW
        )

    @classmethod
    def variants(cls) -> Mapping[str, type[Learner]]:
        return {"": ViewEmbedder, "masked embedder": MaskedEmbedder}

    @classmethod
    def variant(cls, config: EmbedderConfig) -> type[Learner]:
        return MaskedEmbedder if config.objective == "masked" else ViewEmbedder

    @property
    def embedding_size(self) -> int:
        """Return the length of a vector."""
        return self.whitening.outputs

    def embed(self, images: Tensor) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32."""
        vectors: Tensor = self.whitening(self.described(images))
        return vectors

    def described(self, images: Tensor) -> Tensor:
        """Return what the trunk and the edges say of images, part by part, `[n, d]` float32."""
        config = self.config
        seen: Tensor = F.adaptive_avg_pool2d(self.trunk(images).float(), config.places).flatten(1)
        if not config.edges:
            return seen
        return torch.cat([seen, edge_histograms(images, config.edges).flatten(1)], dim=1)

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        return trunk_parameter_kind(name, parameter)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of the objective, and observe what a part of the whole images look like."""
        self._observe(batch.images[::OBSERVED])
        return self.objective_loss(batch.images, rng)

    def objective_loss(self, images: Tensor, rng: torch.Generator) -> Losses:
        """Compute the loss of the objective on images `[n, c, h, w]`."""
        raise NotImplementedError

    @torch.no_grad()
    def _observe(self, images: Tensor) -> None:
        self.trunk.eval()  # as when it embeds
        self.whitening.observe(self.described(images))
        self.trunk.train(self.training)


class ViewEmbedder(Embedder):
    """An embedder that learns that views of an image show the same thing."""

    training_only = ("projector", "prototypes")

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        self._images = 0
        length = config.projection if config.objective == "vicreg" else PROJECTED
        self.projector = nn.Sequential(
            nn.Linear(self.trunk.outputs, config.projection, bias=False),
            nn.BatchNorm1d(config.projection),
            nn.ReLU(),
            nn.Linear(config.projection, length, bias=False),
        )
        self.prototypes: nn.Linear | None = None
        if config.objective == "clusters":
            self.prototypes = nn.Linear(length, config.prototypes, bias=False)

    def phases(self) -> tuple[Phase, ...]:
        clusters = ("prototypes",) if self.config.objective == "clusters" else ()
        return (Phase(PHASE, ("trunk", "projector", *clusters)),)

    def objective_loss(self, images: Tensor, rng: torch.Generator) -> Losses:
        """Compute how little two views of each image agree.

        The logged agreement is the share of images whose second view is nearest to the first. The logged
        spread is 1 where projections point in all directions, and 0 where all are the same.
        """
        config = self.config
        views = [random_views(images, config.view_size, config.changes, rng) for _ in range(2)]
        maps = self.trunk(torch.cat(views).contiguous(memory_format=torch.channels_last))
        first, second = self.projector(maps.mean((2, 3))).float().chunk(2)
        with torch.autocast(images.device.type, enabled=False):
            if config.objective == "contrast":
                loss = contrast_loss(first, second, config.temperature)
            elif self.prototypes is not None:
                loss = cluster_loss(first, second, self.prototypes.weight, config.temperature)
            else:
                loss = vicreg_loss(first, second)
            found = agreement(first, second)
        spread = F.normalize(first.detach(), dim=1).std(0, correction=0).mean() * math.sqrt(first.shape[1])
        return Losses(loss, {"agreement": found, "spread": spread})

    def on_progress(self, images: int) -> None:
        self._images = images

    def alarms(self, logged: Mapping[str, float]) -> list[Alarm]:
        spread = logged.get(f"{PHASE}/spread", 1.0)
        if self._images < FEWEST_TO_ALARM or spread > 0.1:
            return []
        text = (
            f"The vectors of all images are alike (spread {spread:.2f}): lower optimizer.learning_rate, "
            "raise batch_size, or set objective=contrast."
        )
        return [Alarm("collapse", text)]


class MaskedEmbedder(Embedder):
    """An embedder that learns to predict hidden patches of an image (SimMIM, Xie et al. 2022)."""

    training_only = ("decoder",)

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        self.trunk.eval()
        with torch.no_grad():
            rows, columns = self.trunk(torch.zeros(1, config.channels, config.height, config.width)).shape[2:]
        self.trunk.train()
        step = max(-(-config.height // rows), -(-config.width // columns))
        self.decoder = nn.Sequential(
            nn.Conv2d(self.trunk.outputs, config.channels * step**2, 1), nn.PixelShuffle(step)
        )

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("trunk", "decoder")),)

    def objective_loss(self, images: Tensor, rng: torch.Generator) -> Losses:
        """Compute the absolute error of the pixels in hidden patches."""
        mask = self._mask(images, rng)
        made = self.decoder(self.trunk(images * ~mask)).float()[:, :, : images.shape[2], : images.shape[3]]
        errors = (made - images).abs() * mask
        return Losses(errors.sum() / (mask.sum() * images.shape[1]), {"hidden": mask.float().mean()})

    def _mask(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Return which pixels are hidden, in patches, bool `[n, 1, h, w]`."""
        n, _, height, width = images.shape
        rows, columns = (-(-side // self.config.patch) for side in (height, width))
        order = torch.rand(n, rows * columns, generator=rng, device=images.device).argsort(1).argsort(1)
        hidden = order < max(1, round(self.config.hidden * rows * columns))
        patches = hidden.view(n, 1, rows, columns)
        for axis in (2, 3):
            patches = patches.repeat_interleave(self.config.patch, dim=axis)
        return patches[:, :, :height, :width]
