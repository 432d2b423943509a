"""What a run reports while it trains: the command line shows it as a bar, a notebook may plot it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danqing.data import DataReport
    from danqing.evaluation.scores import Score


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will need, estimated before its first step.

    parameters: count per module.
    memory_bytes: expected peak of the process, or of the GPU.
    images: the whole budget.
    seconds: expected for the images that remain, and for their grids of samples.
    images_per_second: as measured, without grids.
    resumed_from: images that earlier processes have seen.
    snapshot_bytes: the most disk space of the snapshots of the moving averages.
    grid_seconds: expected for each grid of samples.
    codes_seconds: expected to encode the images before the stage, on top of `seconds`.
    batch_size: images per step.
    micro_batch: how many of them are computed at once.
    checkpointing: whether activations are computed again in the backward pass, to save memory.
    nearest: a sentence on the measured run that is most like this one.
    warning: a sentence if the budget is too small for the size of the images.
    stage: if a run has two stages, the name of this one.
    then: the plan of the stage that follows.
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
    grid_seconds: float = 0.0
    codes_seconds: float = 0.0
    batch_size: int = 0
    micro_batch: int = 0
    checkpointing: bool = False
    nearest: str = ""
    warning: str = ""
    stage: str = ""
    then: "Plan | None" = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, with the latest averages of its log.

    stage: if a run has two stages, the name of the one that all this is about.
    """

    images: int
    total_images: int
    seconds: float
    seconds_left: float
    logged: Mapping[str, float]
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of the moving average on held-out images.

    images: how many had been seen.
    best_images: how many had been seen at the best score so far; None if the run keeps its last model,
    whatever the scores.
    ema_length: of the moving average; None if it has a half-life.
    """

    images: int
    score: "Score"
    is_best: bool
    best_images: int | None
    ema_length: float | None = None


class Listener:
    """Hears what happens in a run; override the methods that you need.

    Every method may be called often and must return quickly.
    """

    def on_data(self, done: int, total: int, text: str) -> None:
        """`done` of `total` images have been prepared; `text` says for what."""

    def on_dataset(self, report: "DataReport") -> None:
        """The images have been read; the report says how many are used."""

    def on_plan(self, plan: Plan) -> None:
        """The run has been estimated and begins."""

    def on_progress(self, progress: Progress) -> None:
        """A training step has been taken."""

    def on_message(self, text: str) -> None:
        """Something worth a line of text happened."""

    def on_advice(self, text: str) -> None:
        """Another way to train suits the images better; `text` says which."""

    def on_alarm(self, text: str) -> None:
        """Training goes wrong; `text` names the setting to change."""

    def on_samples(self, path: Path) -> None:
        """A grid of samples has been written to `path`."""

    def on_score(self, scored: Scored) -> None:
        """The model has been scored on held-out images."""
