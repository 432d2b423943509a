"""What watches over a run: losses that are no numbers, samples that are all alike, and a family's own
alarms.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from danqing.families.base import Family

WINDOW = 20
COLLAPSED = 0.15


class Watch:
    """Turns the log and the sample grids into alarms, each given once."""

    def __init__(self, family: Family, earlier: Iterable[str], log: Iterable[Mapping[str, float]]) -> None:
        self._family = family
        self._given = {_kind(text) for text in earlier}
        self._recent: deque[Mapping[str, float]] = deque(log, maxlen=WINDOW)

    def on_log(self, record: Mapping[str, float]) -> list[str]:
        """New alarms after another line of the log; the family sees averages over the last lines."""
        self._recent.append(record)
        if len(self._recent) < WINDOW:
            return []
        names = set.intersection(*(set(line) for line in self._recent))
        averages = {name: float(np.mean([line[name] for line in self._recent])) for name in names}
        return self._new(self._family.alarms(averages))

    def on_samples(self, samples: NDArray[np.uint8], real: NDArray[np.uint8]) -> list[str]:
        """An alarm when samples differ from each other far less than real images do; both `[n, h, w, c]`."""
        ratio = diversity(samples) / max(diversity(real), 1e-9)
        if ratio >= COLLAPSED:
            return []
        shown = "samples" if self._family.has_prior else "reconstructions"
        return self._new(
            [
                f"The {shown} are nearly all alike (they differ {ratio:.0%} as much as the data does): "
                f"{self._family.advice_on_collapse}."
            ]
        )

    def _new(self, texts: list[str]) -> list[str]:
        fresh = [text for text in texts if _kind(text) not in self._given]
        self._given |= {_kind(text) for text in fresh}
        return fresh


def diversity(images: NDArray[np.uint8]) -> float:
    """The mean root-mean-square difference between different images of a set `[n, h, w, c]`, in pixel values.

    From E|x - y|² = 2 (E|x|² - |E x|²): the variance about the mean image, without n² comparisons.
    """
    if len(images) < 2:
        return 0.0
    flat = images.reshape(len(images), -1).astype(np.float64)
    variance = flat.var(axis=0, ddof=1).mean()
    return float(np.sqrt(2 * variance))


def _kind(text: str) -> str:
    """What an alarm is about: its beginning, without the numbers, which change."""
    return re.sub(r"[\d.,%]+", "", text)[:40]
