"""The learning rate and the budget, both functions of the images seen alone."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from danqing import atomic
from danqing.errors import TrainingError
from danqing.training.config import RunConfig, ScheduleConfig
from danqing.training.position import Position

REPLAN_AT = (0.03, 0.1, 0.3, 0.6, 0.85)
"""Shares of a budget in minutes at which the number of images it buys is measured again."""
TENTHS = 10


def learning_rate_factor(config: ScheduleConfig, images: int, total: int) -> float:
    """What the configured learning rate is multiplied with after `images` of `total`: in [0, 1].

    A linear warm-up over `warmup_images` times, for "cosine", half a cosine wave from 1 to `final_fraction`
    (Loshchilov and Hutter 2017, equation 5, one period).
    """
    warmup = min(1.0, (images + 1) / (config.warmup_images + 1))
    if config.name == "constant":
        return warmup
    progress = min(1.0, images / max(total, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


def total_images(config: RunConfig, position: Position, images_per_second: float) -> int:
    """Return how many images the configured budget is, counted from the run's start.

    Raises TrainingError if there is no budget.
    """
    if config.images is not None:
        return config.images
    if config.minutes is None:
        raise TrainingError("The run has no budget: give --minutes 5, or --images 200000.")
    left = max(config.minutes * 60 - position.seconds, 0)
    return position.images + int(left * images_per_second)


@dataclass
class Budget:
    """How many images a run will see: a list of (from, total), each total holding from that many images on.

    A budget in minutes is turned into images by measuring; the measured totals are written down before they
    are used, so that a run that is killed and resumed follows the same schedule.
    """

    path: Path
    entries: list[tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> "Budget":
        """The budget written at `path`; an empty one where there is none yet."""
        if not path.exists():
            return cls(path, [])
        return cls(
            path, [(int(start), int(total)) for start, total in json.loads(path.read_text())["totals"]]
        )

    def total(self, images: int) -> int:
        """The total that holds after `images`."""
        reached = [total for start, total in self.entries if start <= images]
        return reached[-1] if reached else self.entries[0][1]

    @property
    def begun(self) -> int:
        """How many images had been seen when this budget was given: 0 for a run's first."""
        return self.entries[0][0]

    def tenth(self, images: int) -> int:
        """How many tenths of the budget, as it is known by then, are over after `images`: 0 to 10."""
        total = self.total(images)
        return TENTHS if images >= total else images * TENTHS // total

    def begin(self, images: int, total: int, step: int) -> None:
        """Let `total`, in whole steps of so many images, be all that holds from `images` on."""
        self.entries.clear()
        self.set(images, max(images, -(-total // step) * step))

    def replan(self, seconds: float, spent: float, images: int, step: int) -> None:
        """For a budget of so many seconds, of which `images` have taken `spent`: correct the total by the
        speed so far, at a few fixed points.
        """
        if len(self.entries) > len(REPLAN_AT):
            return
        if max(spent / seconds, images / self.entries[-1][1]) < REPLAN_AT[len(self.entries) - 1]:
            return
        if self.entries[-1][0] > images:
            return  # a process that was killed has corrected it further on: this one will get there
        left = max(seconds - spent, 0) * images / spent
        self.set(images, images + round(left / step) * step)

    def set(self, images: int, total: int) -> None:
        """Let `total` hold from `images` on, and write it down."""
        self.entries = [entry for entry in self.entries if entry[0] < images] + [(images, total)]
        atomic.write_json(self.path, {"totals": self.entries})
