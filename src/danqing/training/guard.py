"""The guard of a run: it raises an alarm where samples are all alike or the learner complains."""

from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from danqing.families.abilities import Translates
from danqing.families.base import Alarm, Family, Learner
from danqing.training import colour

WINDOW = 20
"""Lines of the log that are averaged."""
COLLAPSED = 0.15
"""The diversity of samples, as a share of that of the data, below which they are all alike."""


class Guard:
    """Turns the log and sample grids into alarms, one per kind.

    raised: the kinds of alarms that the run has raised before.
    log: the lines of the log so far.
    """

    def __init__(self, learner: Learner, raised: Iterable[str], log: Iterable[Mapping[str, float]]) -> None:
        self._learner = learner
        self._raised = set(raised)
        self._recent: deque[Mapping[str, float]] = deque(log, maxlen=WINDOW + 1)

    def on_log(self, record: Mapping[str, float], since: int = 0) -> list[Alarm]:
        """Return the new alarms after another line of the log.

        They follow from averages over the last lines.
        since: after how many images the present size of a run that grows began. Lines that average losses of
            another size do not count.
        """
        self._recent.append(record)
        starts = [0, *(line.get("images", 0) for line in self._recent)]
        lines = [line for line, start in zip(self._recent, starts, strict=False) if start >= since][-WINDOW:]
        if len(lines) < WINDOW:
            return []
        names = set.intersection(*(set(line) for line in lines))
        averages = {name: float(np.mean([line[name] for line in lines])) for name in names}
        return self._new(self._learner.alarms(averages))

    def on_samples(self, samples: NDArray[np.uint8], real: NDArray[np.uint8]) -> list[Alarm]:
        """Return an alarm if samples are nearly all alike.

        samples, real: `[n, h, w, c]`; samples should differ about as much as real images do.
        """
        ratio = diversity(samples) / max(diversity(real), 1e-9)
        if ratio >= COLLAPSED:
            return []
        assert isinstance(self._learner, Family)  # other learners have no samples
        shown = _shown(self._learner)
        text = (
            f"The {shown} are nearly all alike (they differ {ratio:.0%} as much as the data does): "
            f"{self._learner.advice_on_collapse}."
        )
        return self._new([Alarm("alike", text)])

    def on_colours(self, samples: NDArray[np.uint8], real: NDArray[np.float64]) -> list[Alarm]:
        """Return an alarm if samples have other colours than real images.

        samples: `[n, h, w, c]`.
        real: the channel means of real images that show the same, `[m, c]` in levels of 255.
        """
        if min(len(samples), len(real)) < 2:
            return []
        shift = colour.drift(colour.channel_means(samples), real)
        if shift is None:
            return []
        assert isinstance(self._learner, Family)  # other learners have no samples
        by = colour.in_words(shift.tolist())
        shown = _shown(self._learner)
        text = (
            f"The {shown} have other colours than the training images (on average {by} of 255): "
            f"{self._learner.advice_on_colours}."
        )
        return self._new([Alarm("colour", text)])

    def _new(self, alarms: list[Alarm]) -> list[Alarm]:
        fresh = [alarm for alarm in alarms if alarm.kind not in self._raised]
        self._raised |= {alarm.kind for alarm in fresh}
        return fresh


def _shown(family: Family) -> str:
    """Return what the images of a grid are."""
    if isinstance(family, Translates):
        return "translations"
    return "samples" if family.has_prior else "reconstructions"


def diversity(images: NDArray[np.uint8]) -> float:
    """Return the root mean squared difference between images `[n, h, w, c]`.

    It is in pixel values.

    From E|x - y|² = 2 (E|x|² - |E x|²): the variance about the mean image, without n² comparisons.
    """
    if len(images) < 2:
        return 0.0
    flat = images.reshape(len(images), -1).astype(np.float64)
    variance = flat.var(axis=0, ddof=1).mean()
    return float(np.sqrt(2 * variance))
