"""What a run ended as, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing.errors import TrainingError
from danqing.training import run_files
from danqing.training.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of a run.

    status: "finished" or "interrupted".
    seconds: of training alone.
    final: the averages in the last line of the log.
    reason: a sentence if the run ended before its budget was spent.
    best: images, value and text of the best held-out score, which is that of the model; None if the run is
    not evaluated.
    cost: core_hours, energy_wh and peak_memory_bytes, each None if the machine does not report it.
    tokenizer: facts of the first stage, if there are two; `seconds` and `cost` are then of both stages, and
    everything else of the second.
    ema: the EMA length of the model and how it was chosen, if averages of several lengths are kept.
    translates: whether the model turns source images into others, and does not sample without them.
    task: what it is for, "" if it is not an editor of images.
    effect: what generated or unlabelled images changed, as a sentence; None if there are none, or if it is
    not known.
    privacy: what a private run has spent: epsilon, delta and how they follow; None if it is not private.
    reconstructs: whether its samples say nothing, as those of a first stage, and it is shown by what it makes
    of real images.
    """

    folder: Path
    status: str
    images: int
    seconds: float
    images_per_second: float
    final: dict[str, float]
    reason: str | None = None
    best: dict[str, Any] | None = None
    cost: dict[str, float | None] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    tokenizer: dict[str, Any] | None = None
    ema: dict[str, Any] | None = None
    translates: bool = False
    task: str = ""
    effect: str | None = None
    privacy: dict[str, Any] | None = None
    reconstructs: bool = False

    @property
    def evaluation_share(self) -> float:
        """Return the share of time that evaluation took, in [0, 1]."""
        spent = self.seconds + self.evaluation_seconds
        return self.evaluation_seconds / spent if spent else 0.0

    @property
    def model(self) -> Path:
        """The model folder."""
        return RunFolder(self.folder).model

    @property
    def report(self) -> Path:
        """The report, a self-contained HTML file."""
        return RunFolder(self.folder).report


def read_run(path: str | Path) -> Run:
    """Return the run in a folder; raises TrainingError if there is none, or it is damaged."""
    folder = RunFolder(path)
    facts = folder.facts()
    folder.check_format()
    if "progress" not in facts:
        raise TrainingError(f"{path} is not a run folder.")
    try:
        return _run_of(folder, facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise folder.damaged(f"{type(error).__name__}: {error}") from error


def _run_of(folder: RunFolder, facts: Mapping[str, Any]) -> Run:
    """Return a run whose facts may say anything."""
    lines = run_files.read_lines(folder.log_file)
    return Run(
        folder=folder.path,
        status=facts["status"],
        images=int(facts["progress"]["images"]),
        seconds=facts["progress"]["seconds"]
        + sum((facts.get("tokenizer") or {}).get(name, 0.0) for name in ("seconds", "codes_seconds")),
        images_per_second=facts["progress"]["images_per_second"],
        final=lines[-1] if lines else {},
        reason=facts.get("reason"),
        best=facts.get("best"),
        cost=facts.get("cost") or {},
        evaluation_seconds=facts["progress"].get("evaluation_seconds", 0.0),
        tokenizer=facts.get("tokenizer"),
        ema=facts.get("ema"),
        translates=bool(facts.get("translates")),
        task=facts.get("task", ""),
        effect=next(
            (found for key in ("generated", "unlabelled") if (found := facts.get(key, {}).get("verdict"))),
            None,
        ),
        privacy=facts.get("privacy"),
        reconstructs=bool(facts.get("reconstructs")),
    )
