"""The segmenter: gives each pixel of an image a class.

A U-Net, whose encoder may also see the features of EfficientNet-Lite0. Its loss is the cross-entropy of the
pixels and the Dice coefficient of the classes; pixels of unknown class count nowhere.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from danqing.data.targets import IGNORED
from danqing.errors import ConfigError
from danqing.families.base import Batch, FamilyConfig, Learner, Losses, ParameterKind, Phase
from danqing.learners.mask_losses import dice_loss, mask_cross_entropy
from danqing.nets.autoencoders import activate
from danqing.nets.unet import Encoder, TrainedTrunk, UNet

PHASE = "segmenter"


class SegmenterConfig(FamilyConfig):
    """Settings of a segmenter.

    trunk: a network that was trained on ImageNet, whose features the encoder sees besides the image; its
        weights are not changed, and are part of the model.
    widths: channels of the encoder's maps, from fine to coarse, each with half the sides of the one before.
    blocks: residual blocks of the encoder at each resolution below the full one.
    decoder_widths: channels of the decoder's maps, from fine to coarse; one less than `widths`.
    dice: the weight of the Dice loss beside the cross-entropy.
    balance: how much rare classes count in the cross-entropy: a class has the weight share ** -balance. 0
        counts each pixel alike, 1 each class.
    class_weights: factors of the weights of classes, by their names.
    mask_classes, mask_shares: the classes of the data's masks, and how frequent their pixels are.
    """

    display_name: ClassVar[str] = "segmenter"
    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"mask_classes", "mask_shares"}

    family: Literal["segmenter"] = "segmenter"
    trunk: Literal["none", "efficientnet-lite0"] = "none"
    widths: tuple[int, ...] = (16, 32, 64, 128, 192)
    blocks: int = Field(1, ge=0, le=32)
    decoder_widths: tuple[int, ...] = (16, 32, 64, 96)
    dice: float = Field(1.0, ge=0)
    balance: float = Field(0.0, ge=0, le=1)
    class_weights: Mapping[str, float] = Field(default_factory=dict)
    mask_classes: tuple[str, ...] = ()
    mask_shares: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        for name in ("widths", "decoder_widths"):
            found = getattr(self, name)
            if not 1 <= len(found) <= 8 or min(found) < 4 or max(found) > 4096:
                raise ValueError(f"{name} must hold one to eight numbers from 4 to 4096")
        if len(self.decoder_widths) != len(self.widths) - 1:
            raise ValueError(f"decoder_widths must hold {len(self.widths) - 1} numbers, one less than widths")
        if any(not 0 < weight < float("inf") for weight in self.class_weights.values()):
            raise ValueError("class_weights must be positive")
        return self

    @property
    def reads_labels(self) -> bool:
        return False

    def check_shape(self) -> None:
        super().check_shape()
        if not 2 <= len(self.mask_classes) <= IGNORED:
            raise ConfigError(
                f"A segmenter learns from masks with 2 to {IGNORED} classes, and this data has "
                f"{len(self.mask_classes) or 'no'}: name the masks by --masks, such as --masks images:masks."
            )
        unknown = self.class_weights.keys() - set(self.mask_classes)
        if unknown:
            raise ConfigError(
                f"class_weights names {', '.join(sorted(unknown))}, and the classes are "
                f"{', '.join(self.mask_classes)}: correct the names.",
                "class_weights",
            )


class Segmenter(Learner):
    """A network from images of any size to the class logits of each pixel."""

    config: SegmenterConfig
    weights: Tensor

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = TrainedTrunk() if config.trunk == "efficientnet-lite0" else None
        given = () if self.trunk is None else self.trunk.WIDTHS
        encoder = Encoder(config.channels, config.widths, config.blocks, given)
        self.network = UNet(encoder, max(2, len(config.mask_classes)), config.decoder_widths)
        self.register_buffer("weights", class_weights(config), persistent=False)

    def load_published(self) -> None:
        """Take the weights of the trunk, if there is one."""
        if self.trunk is not None:
            self.trunk.load_published()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the logits."""
        return self.config.mask_classes

    @property
    def embedding_size(self) -> int:
        """Return the length of a vector."""
        return self.network.encoder.widths[-1]

    @property
    def receptive_radius(self) -> int:
        """Return how many pixels away a result may depend on, at most."""
        seen = 0 if self.trunk is None else self.trunk.receptive_radius
        return self.network.receptive_radius + seen

    @property
    def stride(self) -> int:
        """Return by which multiples results move with the image."""
        own = self.network.encoder.stride
        return own if self.trunk is None else max(own, 2 ** len(self.trunk.WIDTHS))

    def embed(self, images: Tensor) -> Tensor:
        """Turn images into vectors `[n, embedding_size]` float32: the mean of the coarsest map."""
        return activate(self.network.maps(images, self.trunk)[-1]).float().mean((2, 3))

    def mask_logits(self, images: Tensor) -> Tensor:
        """Compute the logits of each class at each pixel, `[n, k, h, w]` float32.

        images: `[n, c, h, w]` of any size.
        """
        logits: Tensor = self.network(images, self.trunk)
        return logits

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("network",)),)

    def parameter_kind(self, name: str, parameter: nn.Parameter) -> ParameterKind:
        """Let Muon train kernels, except those that read images and write logits."""
        if parameter.dim() < 2:
            return "other"
        is_edge = name.startswith(("network.encoder.first.", "network.last."))
        return "weight" if is_edge else "matrix"

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the cross-entropy and the Dice loss; the logged accuracy is of pixels."""
        assert batch.targets is not None
        assert batch.targets.mask is not None
        mask, logits = batch.targets.mask, self.mask_logits(batch.images)
        entropy = mask_cross_entropy(logits, mask, self.weights)
        known = mask != IGNORED
        right = ((logits.argmax(1) == mask) & known).sum() / known.sum().clamp_min(1)
        logged = {"cross_entropy": entropy, "accuracy": right}
        total = entropy
        if self.config.dice:
            logged["dice_loss"] = dice_loss(logits, mask)
            total = total + self.config.dice * logged["dice_loss"]
        return Losses(total, {name: value.detach() for name, value in logged.items()})


def class_weights(config: SegmenterConfig) -> Tensor:
    """Return the weight of each class, `[k]` float32; over all pixels of the data their mean is 1."""
    names = config.mask_classes
    factors = torch.tensor([config.class_weights.get(name, 1.0) for name in names], device="cpu")
    if not config.mask_shares:
        return factors if len(names) else torch.ones(2, device="cpu")
    shares = torch.tensor(config.mask_shares, device="cpu")
    found = factors * shares.clamp_min(1e-6) ** -config.balance
    return found / (found * shares).sum().clamp_min(1e-6)  # no model folder holds it
