"""What a run tells whoever watches it; the command line draws bars from it, a notebook may plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danqing.data import DataReport
    from danqing.evaluation.scores import Score


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will cost, estimated before its first step by taking a few on a copy of the model.

    parameters: count per module. memory_bytes: expected peak of the process. seconds: expected for `images`
    that remain; images_per_second as measured; resumed_from: images that an earlier process has seen already.
    snapshot_bytes: the most disk space of the snapshots of the moving averages, 0 if there are none.
    stage: what is learnt, where a run has two stages. then: the plan of the stage that follows.
    """

    parameters: dict[str, int]
    memory_bytes: int
    images: int
    seconds: float
    images_per_second: float
    precision: str
    device: str
    resumed_from: int
    snapshot_bytes: int = 0
    stage: str = ""
    then: "Plan | None" = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: images seen and in all, seconds spent and left, and the log's latest averages.

    Where a run has two stages, all this is of the one that is called `stage`.
    """

    images: int
    total_images: int
    seconds: float
    seconds_left: float
    logged: Mapping[str, float]
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of the moving average on held-out images after `images` have been seen.

    best_images: how many had been seen at the best score so far, which is this one where `is_best`; None
    where the last model is kept, whatever its score.
    ema_length: of the moving average; None if it has a half-life.
    """

    images: int
    score: "Score"
    is_best: bool
    best_images: int | None
    ema_length: float | None = None


class Listener:
    """Told what happens in a run. Override what you care for; every method may be called often and must be
    quick.
    """

    def on_data(self, done: int, total: int, text: str) -> None:
        """`done` of `total` images have been prepared."""

    def on_dataset(self, report: "DataReport") -> None:
        """The images have been read: how many were found, used and left out, and what to look at."""

    def on_plan(self, plan: Plan) -> None:
        """The run has been estimated and is about to take its first step."""

    def on_progress(self, progress: Progress) -> None:
        """A training step has been taken."""

    def on_message(self, text: str) -> None:
        """Something worth a line happened: a resume, a rollback."""

    def on_alarm(self, text: str) -> None:
        """Something goes wrong, and `text` names the setting to change."""

    def on_samples(self, path: Path) -> None:
        """A grid of samples has been painted."""

    def on_score(self, scored: Scored) -> None:
        """The model has been scored on images that it does not learn from."""
