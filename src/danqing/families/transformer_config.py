"""What a transformer is told of itself."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from danqing import families
from danqing.families.base import FamilyConfig
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.encoders import settle

MOST_PIXELS = 8192
"""Of one image, written one by one: more would take hours."""


def _parsed(value: Any) -> Any:
    return families.parse_config(value) if isinstance(value, dict) else value


class TransformerConfig(FamilyConfig):
    """A transformer's settings.

    features: the width of its residual stream. key_value_heads: how many of its heads have keys and values of
    their own; 0 is all. condition_dropout: the share of images that it learns without their condition, which
    guidance needs; guidance_scale: of samples, unless asked otherwise. label_smoothing: of the targets.
    noise: the share of codes that are replaced by random ones where they are read, in raster order, so that a
    wrong code does not lead the rest astray. text: how captions are read. tokenizer: that of the codes, from
    the first stage; None where they are the pixels.
    """

    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"text_facts", "tokenizer"}

    family: Literal["transformer"] = "transformer"
    order: Literal["raster", "masked"] = "raster"
    layers: int = Field(6, ge=1, le=128)
    features: int = Field(256, ge=8, le=16384)
    heads: int = Field(8, ge=1, le=256)
    key_value_heads: int = Field(0, ge=0, le=256)
    condition: Literal["label", "text", "none"] = "label"
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, lt=1)
    guidance_scale: float = Field(1.0, ge=0, le=100)
    text: TextConfig = TextConfig()
    text_facts: TextFacts | None = None
    tokenizer: Annotated[SerializeAsAny[FamilyConfig], BeforeValidator(_parsed)] | None = None

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.features % (4 * self.heads):
            raise ValueError("features must be a multiple of four times heads")
        if self.key_value_heads and self.heads % self.key_value_heads:
            raise ValueError("heads must be a multiple of key_value_heads")
        if self.tokenizer is None:
            if self.dimensions > MOST_PIXELS:
                raise ValueError(
                    f"an image of {self.dimensions} pixel values is too long to write one by one: give it a "
                    "tokenizer, as the preset text2image-32 does, or a smaller size"
                )
            return self
        sides = ("width", "height", "channels")
        if any(getattr(self.tokenizer, side) != getattr(self, side) for side in sides):
            raise ValueError("the tokenizer must be of images of the same width, height and channels")
        return self

    @property
    def reads_labels(self) -> bool:
        return self.conditional and self.condition == "label"

    @property
    def reads_text(self) -> bool:
        return self.conditional and self.condition == "text"

    def complete(self, captions: Sequence[str]) -> Self:
        """The configuration with the vocabulary of its text; raises what `text.encoders.settle` raises."""
        if not self.reads_text:
            return self
        return self.model_copy(update={"text_facts": settle(self.text, captions)})
