"""The trunk that learners of recognition share: from images to a map of features."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import nn

from danqing import families
from danqing.families.base import FamilyConfig, ParameterKind
from danqing.learners.lent_trunk import LentTrunk
from danqing.nets.residual import ResidualTrunk
from danqing.nets.vision_transformer import HEAD_WIDTH, VisionTransformer

Trunk = ResidualTrunk | VisionTransformer | LentTrunk

_HIDDEN = ("trunk.stages.", "trunk.blocks.", "trunk.encoder.", "trunk.discriminator.")
"""How the names of layers between hidden ones begin; a small encoder may have only one layer."""


def _parsed(value: Any) -> Any:
    return families.parse_config(value) if isinstance(value, dict) else value


class TrunkConfig(FamilyConfig):
    """Settings of a trunk.

    net: "residual" is convolutions, "transformer" attention over patches, "lent" the encoder of a generative
        model, whose settings are those of `lender` (`--init` chooses it).
    features: of the first stage of "residual", whose later stages have up to 4 times as many; of each token
        of "transformer". blocks: residual convolutions in each stage, or blocks of the transformer.
    patch: pixels between the tokens of the transformer.
    """

    trunk_settings: ClassVar[tuple[str, ...]] = ("net", "lender", "features", "blocks", "patch")

    net: Literal["residual", "transformer", "lent"] = "residual"
    lender: Annotated[SerializeAsAny[FamilyConfig], BeforeValidator(_parsed)] | None = None
    features: int = Field(64, ge=8, le=2048)
    blocks: int = Field(1, ge=0, le=64)
    patch: int = Field(4, ge=1, le=64)

    @property
    def why_not_private(self) -> str:
        return "Batch norm mixes the images of a batch, so no gradient is that of one image alone."

    @model_validator(mode="after")
    def _has_whole_heads(self) -> "TrunkConfig":
        if self.net == "transformer" and (self.features % HEAD_WIDTH or not self.blocks):
            raise ValueError(f"a transformer needs blocks, and features in multiples of {HEAD_WIDTH}")
        if (self.net == "lent") != (self.lender is not None):
            raise ValueError('net="lent" is for a run with --init MODEL, and needs a lender')
        return self


def build_trunk(config: TrunkConfig) -> Trunk:
    """Build the trunk of a configuration with fresh weights."""
    if config.lender is not None:
        return LentTrunk(config.lender, config)
    if config.net == "residual":
        size = (config.height, config.width)
        return ResidualTrunk(config.channels, size, config.features, config.blocks)
    return VisionTransformer(config.channels, config.features, config.blocks, config.patch)


def trunk_parameter_kind(name: str, parameter: nn.Parameter) -> ParameterKind:
    """Return how an optimiser treats a parameter: trunks hold matrices."""
    if parameter.dim() < 2 or "weight" not in name:
        return "other"
    is_hidden = name.startswith(_HIDDEN) and "embedding" not in name
    return "matrix" if is_hidden else "weight"
