"""Which size a run that grows has reached, and how long the sizes take: functions of the images seen."""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from danqing.training.config import RunConfig

Totals = Sequence[tuple[int, int]]
"""Pairs (from, total): so many images are the budget, from that many images seen on."""


@dataclass(frozen=True, slots=True)
class Growth:
    """The sizes of a run, smallest first, and when each ends.

    ends: the share of the budget at which each size ends, ascending; the last is 1.
    """

    ends: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Return the sizes of a run, by default for as many images each."""
        count = len(config.model.grow_levels)
        fractions = config.schedule.grow_fractions or (1 / count,) * count
        return cls((*itertools.accumulate(fractions[:-1]), 1.0))

    def seen(self, images: int, totals: Totals) -> list[int]:
        """Return how many of the first `images` have each size.

        totals: of the budget, from the start of the run on. A size begins at its share of the budget that is
            known then. It does not return to a smaller one if the budget becomes larger later.
        """
        counts, size, place = [0] * len(self.ends), 0, 0
        for number, (_, total) in enumerate(totals):
            until = min(images, totals[number + 1][0]) if number + 1 < len(totals) else images
            while place < until:
                is_last = size + 1 == len(self.ends)
                end = until if is_last else min(max(place, math.ceil(self.ends[size] * total)), until)
                counts[size] += end - place
                place = end
                if place < until:
                    size += 1
        return counts

    def begins(self, images: int, totals: Totals) -> tuple[int, ...]:
        """Return after how many images each size began, of those that have.

        The last one is the size of the next image when `images` have been seen.
        """
        counts = self.seen(images + 1, totals)
        reached = max(size for size, count in enumerate(counts) if count)
        return (0, *itertools.accumulate(counts[:reached]))


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a run takes.

    seconds: of an image of each size.
    """

    growth: Growth = Growth()
    seconds: tuple[float, ...] = (1.0,)

    def until(self, images: int, totals: Totals) -> float:
        """Return the seconds of the first `images`."""
        counts = self.growth.seen(images, totals)
        return sum(count * each for count, each in zip(counts, self.seconds, strict=True))

    def total_after(self, seconds: float, images: int, totals: Totals) -> int:
        """Return the total at which the images after the first `images` take so many seconds.

        totals: of the budget until then.
        """
        before = [entry for entry in totals if entry[0] < images]
        spent = self.until(images, before)

        def too_long(total: int) -> bool:
            return self.until(total, [*before, (images, total)]) - spent > seconds

        most = math.ceil(seconds / min(self.seconds)) + 1
        return images + bisect.bisect_left(range(1, most), True, key=lambda more: too_long(images + more))

    def seconds_left(self, spent: float, images: int, totals: Totals) -> float:
        """Return the seconds of the images that are left, at the speed so far.

        spent: the seconds that the first `images` have taken.
        """
        expected = self.until(images, totals)
        left = self.until(max(totals[-1][1], images), totals) - expected
        return left * spent / expected if expected else left
