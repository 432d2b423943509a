"""The survey of a source: how it was understood, and every image that was left out, and why."""

from collections import Counter
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

NAMED = 100
"""The maximum number of left-out images that are listed by name."""


class Skipped(BaseModel):
    """An image that is not used, and why."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str


@dataclass
class Survey:
    """Everything that a source found besides the images that it offers.

    left_out: the number of images that it does not offer, by reason. named: some of them. understood: how the
    data was read, by topic: layout, split, labels, captions and so on. notes: sentences for the user.
    class_names: the classes of targets in the order of their numbers, by topic, where the data names them.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    named: list[Skipped] = field(default_factory=list)
    understood: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Count an image that is not offered."""
        self.left_out[reason] += 1
        if len(self.named) < NAMED and self.left_out[reason] <= NAMED // 5:
            self.named.append(Skipped(name=name, reason=reason))
