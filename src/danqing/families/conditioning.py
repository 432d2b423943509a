"""The configuration that families share whose models learn from labels or captions."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field

from danqing.families.configuration import FamilyConfig
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.encoders import settle


class ConditionedConfig(FamilyConfig):
    """Settings of a model that learns from labels or captions.

    condition: which of the two.
    condition_dropout: the share of images learned without their condition, which guidance needs.
    text: how captions are read.
    text_facts: what was settled from the captions of the data.
    """

    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"text_facts"}

    condition: Literal["label", "text", "none"] = "label"
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    text: TextConfig = TextConfig()
    text_facts: TextFacts | None = None

    @property
    def reads_labels(self) -> bool:
        return self.conditional and self.condition == "label"

    @property
    def reads_text(self) -> bool:
        return self.conditional and self.condition == "text"

    @property
    def reads_attributes(self) -> bool:
        return self.conditional and self.condition != "none"

    @property
    def can_guide(self) -> bool:
        has_labels = self.reads_labels and bool(self.labels)
        return self.condition_dropout > 0 and (self.reads_text or has_labels or bool(self.attributes))

    def complete(self, captions: Sequence[str]) -> Self:
        """Add the vocabulary of captions; raises what `text.encoders.settle` raises."""
        if not self.reads_text:
            return self
        return self.model_copy(update={"text_facts": settle(self.text, captions)})
