"""The detector: finds objects and their boxes, each by the places near its centre.

A trunk makes maps of several sizes, a feature pyramid joins them into one fine map, and two small heads say
at each of its places which class an object there has, and where its centre and its sides are. There are no
anchor boxes (Tian et al. 2019; Zhou et al. 2019). The score of a class learns the overlap of the box with the
true one, so that better boxes win over worse ones of the same object (Li et al. 2020, equation 5).
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families.base import Batch, FamilyConfig, Learner, Losses, ParameterKind, Phase
from danqing.learners.abilities import Detection
from danqing.learners.box_geometry import assign, overlaps, places, without_duplicates
from danqing.nets.pyramid import TopDown, convolution
from danqing.nets.residual import ResidualTrunk, stage_widths, stem_stride

PHASE = "detector"
MOST = 100
"""The most objects that are reported of an image, as COCO counts them."""
_CANDIDATES = 400
_RARE = 0.01
"""The probability of an object at a place before training (Lin et al. 2017, "Focal loss", section 4.1)."""
_LONGEST = 8.0
"""The logarithm of the longest side, in strides; larger answers are clamped."""


class DetectorConfig(FamilyConfig):
    """Settings of a detector.

    features: of the first stage of the trunk, whose later stages have up to 4 times as many. blocks: residual
    convolutions in each stage. head_features: of the fine map and of the heads.
    stride: pixels between the places of the fine map, or less if the trunk has no map as coarse. radius: how
    far from the centre of an object places learn it along either axis, in strides; four places do so at 1.
    most_overlap: of two boxes of one class that overlap by more than this, the worse one is not reported.
    box_weight: of the loss of boxes, beside that of classes.
    box_classes: the classes of objects.
    """

    display_name: ClassVar[str] = "detector"
    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"box_classes"}

    family: Literal["detector"] = "detector"
    features: int = Field(64, ge=8, le=2048)
    blocks: int = Field(1, ge=0, le=16)
    head_features: int = Field(64, ge=8, le=1024)
    stride: Literal[2, 4, 8, 16] = 4
    radius: float = Field(1.0, ge=0.5, le=8)
    most_overlap: float = Field(0.6, gt=0, le=1)
    box_weight: float = Field(2.0, ge=0)
    box_classes: tuple[str, ...] = ()

    @property
    def reads_labels(self) -> bool:
        return False

    def check_shape(self) -> None:
        super().check_shape()
        if not self.box_classes:
            raise ConfigError(
                "A detector needs images with boxes: declare where they are by --boxes, such as coco, yolo, "
                "masks or auto."
            )


class _Found(NamedTuple):
    """What the heads say.

    Logits `[n, places, classes]`, boxes `[n, places, 4]`, and the centres of the places `[places, 2]`.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor


class Detector(Learner):
    """A trunk, a feature pyramid and two heads."""

    config: DetectorConfig

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        size = (config.height, config.width)
        self.trunk = ResidualTrunk(config.channels, size, config.features, config.blocks)
        channels = (config.features // 2, *stage_widths(*size, config.features))
        strides = [stem_stride(*size) * 2**level for level in range(len(channels))]
        self._finest = min(sum(stride < config.stride for stride in strides), len(strides) - 1)
        self.stride = strides[self._finest]
        self.pyramid = TopDown(channels[self._finest :], config.head_features)
        width, classes = config.head_features, len(config.box_classes)
        self.classify = nn.Sequential(convolution(width, width), nn.Conv2d(width, classes, 1))
        self.measure = nn.Sequential(convolution(width, width), nn.Conv2d(width, 4, 1))
        nn.init.zeros_(self.classify[1].weight)  # type: ignore[arg-type]
        nn.init.constant_(self.classify[1].bias, -math.log((1 - _RARE) / _RARE))  # type: ignore[arg-type]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes of objects."""
        return self.config.box_classes

    @property
    def embedding_size(self) -> int:
        """Return the length of a vector."""
        return self.trunk.outputs

    def embed(self, images: Tensor) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32.

        A vector is the mean of the last map of the trunk.
        """
        vectors: Tensor = self.trunk(images).mean((2, 3), dtype=torch.float32)
        return vectors

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("trunk", "pyramid", "classify", "measure")),)

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        if parameter.dim() < 2 or "weight" not in name:
            return "other"
        hidden = ("trunk.stages.", "pyramid.", "classify.0.", "measure.0.")
        return "matrix" if name.startswith(hidden) else "weight"

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss of classes and boxes.

        Both are per place that learns a box. The logged overlap is that of the boxes at these places.
        """
        targets = batch.targets
        assert targets is not None
        assert targets.boxes is not None
        assert targets.box_labels is not None
        found = self._found(batch.images)
        is_box = targets.box_labels >= 0
        chosen = assign(found.centres, targets.boxes, is_box, self.config.radius * self.stride)
        rows, at = chosen.is_positive.nonzero(as_tuple=True)
        which = chosen.which[rows, at]
        overlap, generalized = overlaps(found.boxes[rows, at], targets.boxes[rows, which])
        wanted = torch.zeros_like(found.logits)
        wanted[rows, at, targets.box_labels[rows, which]] = overlap.detach()
        share = (wanted - found.logits.sigmoid()).square().detach()
        entropy = F.binary_cross_entropy_with_logits(found.logits, wanted, reduction="none")
        count = max(1, len(rows))
        of_classes, of_boxes = (share * entropy).sum() / count, (1 - generalized).sum() / count
        logged = {"classes": of_classes.detach(), "boxes": of_boxes.detach()}
        logged["overlap"] = overlap.detach().mean() if len(rows) else of_boxes.new_zeros(())
        return Losses(of_classes + self.config.box_weight * of_boxes, logged)

    def detect(self, images: Tensor, *, threshold: float = 0.05) -> list[Detection]:
        """Find at most `MOST` objects in each image."""
        found = self._found(images)
        limits = torch.tensor([images.shape[3], images.shape[2]] * 2, device=images.device)
        results = []
        for logits, boxes in zip(found.logits, found.boxes, strict=True):
            scores, order = logits.sigmoid().flatten().sort(descending=True, stable=True)
            order = order[scores >= threshold][:_CANDIDATES]
            at, classes = order // logits.shape[1], order % logits.shape[1]
            sides = boxes[at].clamp_min(0).minimum(limits)
            kept = without_duplicates(sides, classes, self.config.most_overlap)[:MOST]
            results.append(Detection(sides[kept], classes[kept], scores[kept]))
        return results

    def found(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the heads say at each place, before anything is chosen.

        The logits are `[n, places, classes]`, the boxes `[n, places, 4]` in pixels.
        """
        found = self._found(images)
        return found.logits, found.boxes

    def _found(self, images: Tensor) -> _Found:
        joined = self.pyramid(self.trunk.maps(images)[self._finest :])
        rows, columns = joined.shape[2:]
        logits, raw = (
            head(joined).float().permute(0, 2, 3, 1).flatten(1, 2) for head in (self.classify, self.measure)
        )
        centres = places(rows, columns, self.stride, images.device)
        middles = centres + raw[..., :2] * self.stride
        halves = raw[..., 2:].clamp(max=_LONGEST).exp() * self.stride
        return _Found(logits, torch.cat([middles - halves, middles + halves], -1), centres)
