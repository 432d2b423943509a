"""The learning rate and the budget, both functions only of the images seen."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from danqing import atomic
from danqing.errors import TrainingError
from danqing.training.config import RunConfig
from danqing.training.config_sections import ScheduleConfig
from danqing.training.growth import Pace, Totals
from danqing.training.position import Position

REPLAN_AT = (0.03, 0.1, 0.3, 0.6, 0.85)
"""Shares of a budget in minutes at which its number of images is estimated again."""
TENTHS = 10
"""How many scores a run gets where evaluation is every tenth of its budget."""


def learning_rate_factor(config: ScheduleConfig, images: int, total: int) -> float:
    """Return the learning rate's factor after `images` of `total`, in [0, 1].

    A linear warm-up over `warmup_images`, multiplied, for "cosine", by half a cosine wave from 1 to
    `final_fraction` (Loshchilov and Hutter 2017, equation 5, one period).
    """
    warmup = min(1.0, (images + 1) / (config.warmup_images + 1))
    if config.name == "constant":
        return warmup
    progress = min(1.0, images / max(total, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


def total_images(config: RunConfig, position: Position, pace: Pace, totals: Totals = ()) -> int:
    """Return how many images the budget is, from the run's start.

    totals: of the budget until now.
    Raises TrainingError if there is no budget.
    """
    if config.images is not None:
        return config.images
    if config.minutes is None:
        raise TrainingError("The run has no budget: give --minutes 5, or --images 200000.")
    left = max(config.minutes * 60 - position.seconds, 0)
    return pace.total_after(left, position.images, totals)


@dataclass
class Budget:
    """How many images a run will see.

    entries: (from, total) pairs; a total is valid from that many images on.
    earlier: those of the budgets that the run had before.

    A budget in minutes becomes a number of images by measuring. Each total is written to `path` before it is
    used, so that a run that is killed and resumed follows the same schedule.
    """

    path: Path
    entries: list[tuple[int, int]]
    earlier: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Budget":
        """Return the budget at `path`; an empty one if there is none.

        Raises TrainingError if it is damaged.
        """
        if not path.exists():
            return cls(path, [])
        try:
            written = json.loads(path.read_text())
            totals, earlier = (
                [(int(start), int(total)) for start, total in written.get(name, [])]
                for name in ("totals", "earlier")
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path} is damaged ({type(error).__name__}): restore it, or choose another --out."
            ) from error
        return cls(path, totals, earlier)

    @property
    def totals(self) -> list[tuple[int, int]]:
        """Return the totals since the run began, as `growth` reads them."""
        return self.earlier + self.entries

    def total(self, images: int) -> int:
        """Return the total that is valid after `images`."""
        reached = [total for start, total in self.entries if start <= images]
        return reached[-1] if reached else self.entries[0][1]

    @property
    def begun(self) -> int:
        """How many images had been seen when this budget was given."""
        return self.entries[0][0]

    def tenth(self, images: int) -> int:
        """Return how many tenths of the budget are over after `images`.

        The budget is the one known by then.
        """
        total = self.total(images)
        return TENTHS if images >= total else images * TENTHS // total

    def begin(self, images: int, total: int, step: int) -> None:
        """Replace the budget by `total` from `images` on, in whole steps.

        step: images per step.
        """
        self.earlier = [entry for entry in self.totals if entry[0] < images]
        self.entries = []
        self.set(images, max(images, -(-total // step) * step))

    def replan(
        self,
        seconds: float,
        spent: float,
        images: int,
        step: int,
        pace: Pace = Pace(),  # noqa: B008 (immutable)
        most: int | None = None,
    ) -> None:
        """Correct the total of a budget in seconds by the speed.

        This happens at a few fixed points.

        spent: the seconds that `images` have taken.
        step: images per step.
        pace: how the seconds of an image depend on its size, in a run that grows.
        most: the largest total that is allowed.
        """
        if len(self.entries) > len(REPLAN_AT):
            return
        if max(spent / seconds, images / self.entries[-1][1]) < REPLAN_AT[len(self.entries) - 1]:
            return
        if self.entries[-1][0] > images:
            return  # a process that was killed has corrected it at a later point
        left = max(seconds - spent, 0) * pace.until(images, self.totals) / spent
        more = pace.total_after(left, images, self.totals) - images
        total = images + round(more / step) * step
        self.set(images, total if most is None else min(total, most))

    def set(self, images: int, total: int) -> None:
        """Make `total` valid from `images` on, and write it down."""
        self.entries = [entry for entry in self.entries if entry[0] < images] + [(images, total)]
        earlier = {"earlier": self.earlier} if self.earlier else {}
        atomic.write_json(self.path, {"totals": self.entries, **earlier})
