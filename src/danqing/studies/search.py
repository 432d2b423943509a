"""The trials of a search: which settings come next, which are stopped early, and how each ended."""

import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from danqing import atomic
from danqing.progress import FractionalProgressCallback
from danqing.randomness import derived_seed
from danqing.studies.search_space import Dimension
from danqing.studies.training_process import StartsTraining, Training, TrainingProcess, wait_until_free
from danqing.training.run_files import read_lines
from danqing.training.schedule import TENTHS

_STARTUP_TRIALS = 4  # never pruned: the first median is made of them
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=1),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(1, TENTHS, 3),
    "none": optuna.pruners.NopPruner,
}
_POLL_SECONDS = 0.1
_FLATTERED, _HIGHER = "flattered", "higher_is_better"
_STATUS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice of settings that was tried.

    status: "finished", "pruned" (stopped early, for it was worse than others), "failed" (`error` says why) or
    "running". score: the best of its held-out scores; None where it has none. higher_is_better: whether a
    higher score is better. flattered: whether its scores are by a network that it was trained with.
    """

    number: int
    folder: Path
    status: str
    settings: dict[str, Any]
    score: float | None = None
    error: str = ""
    flattered: bool = False
    higher_is_better: bool = False

    @property
    def loss(self) -> float:
        """The score such that lower is better; infinity without one."""
        if self.score is None:
            return math.inf
        return -self.score if self.higher_is_better else self.score


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial with the best score.

    A trial whose scores flatter it is the best only where all trials are such.
    """
    finished = [trial for trial in trials if trial.status == "finished"]
    fair = [trial for trial in finished if not trial.flattered] or finished
    return min(fair, key=lambda trial: trial.loss, default=None)


class Search:
    """A study on disk, and the processes of its running trials.

    task: what each trial's `train` is called with besides its own folder and settings.
    start: starts the process of a trial.
    """

    def __init__(
        self,
        folder: Path,
        task: dict[str, Any],
        space: Sequence[Dimension],
        pruner: str,
        seed: int,
        start: StartsTraining = TrainingProcess,
    ) -> None:
        self.folder, self.task, self.space, self.seed = folder, task, space, seed
        self._start_training = start
        self.running: list[_Running] = []
        self.study = optuna.create_study(
            study_name="danqing",
            storage=f"sqlite:///{(folder / 'study.db').resolve()}",
            pruner=PRUNERS[pruner](),
            load_if_exists=True,
        )

    def run(self, trials: int, jobs: int, on_progress: FractionalProgressCallback) -> None:
        """Continue until `trials` trials have ended, `jobs` at once.

        KeyboardInterrupt ends it, saved.
        """
        threads = max(1, torch.get_num_threads() // jobs) if jobs > 1 else None
        waiting = [trial.number for trial in self.study.trials if not trial.state.is_finished()]
        try:
            while True:
                ended = sum(trial.state.is_finished() for trial in self.study.trials)
                while len(self.running) < jobs and ended + len(self.running) < trials:
                    self._start(waiting.pop(0) if waiting else None, threads)
                on_progress(ended + sum(one.share for one in self.running), trials, self._text(ended, trials))
                if not self.running:
                    return
                time.sleep(_POLL_SECONDS)
                for one in list(self.running):
                    self._look_after(one)
        finally:
            for one in self.running:
                one.process.ask_to_stop()
            for one in self.running:
                one.process.stop()

    def trials(self) -> tuple[Trial, ...]:
        """Return all trials so far, in the order of their numbers."""
        return tuple(self._trial(trial) for trial in self.study.trials)

    def metric(self) -> str:
        """Return what the trials are scored by; "" before the first score."""
        for trial in self.study.trials:
            for line in read_lines(self._folder(trial.number) / "scores.jsonl"):
                return str(line["score"]["metric"])
        return ""

    def importance(self) -> dict[str, float]:
        """Return how much of the scores' variance each setting explains.

        The shares add up to 1. Empty with too few trials.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # "too few": then all would be called equal
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        except (ValueError, RuntimeError, ZeroDivisionError, UserWarning):
            return {}
        return {name: float(share) for name, share in found.items()}

    def mark_best(self) -> None:
        """Link `best` to the best run, and write its configuration to `best.toml`."""
        best = best_of(self.trials())
        if best is None:
            return
        atomic.write_bytes(self.folder / "best.toml", (best.folder / "config.toml").read_bytes())
        link, fresh = self.folder / "best", self.folder / ".best.tmp"
        fresh.unlink(missing_ok=True)
        try:
            os.symlink(Path("trials") / best.folder.name, fresh, target_is_directory=True)
            os.replace(fresh, link)
        except OSError:  # a system without links: the model itself, to sample from
            shutil.rmtree(link, ignore_errors=True)
            shutil.copytree(best.folder / "model", link / "model")

    def _start(self, number: int | None, threads: int | None) -> None:
        """Start a new trial, or take up the one of this number where a killed search left it."""
        # Each trial has a sampler of its own: what it proposes follows from the trials before it alone.
        place = len(self.study.trials) if number is None else number
        self.study.sampler = optuna.samplers.TPESampler(seed=derived_seed(self.seed, "trial", place) % 2**32)
        if number is None:
            trial = self.study.ask()
            reported = 0
        else:
            frozen = self.study.trials[number]
            trial = optuna.trial.Trial(self.study, frozen._trial_id)
            reported = max(frozen.intermediate_values, default=0)
        settings = {dimension.name: dimension.suggest(trial) for dimension in self.space}
        folder = self._folder(trial.number)
        wait_until_free(folder)
        merged = {**self.task, "settings": {**self.task.get("settings", {}), **settings}}
        process = self._start_training({**merged, "out": str(folder.resolve())}, threads)
        self.running.append(_Running(trial, folder, process, reported))

    def _look_after(self, one: "_Running") -> None:
        """Report a trial's new scores, stop it if it is worse than others, and record how it ended."""
        running = one.process.running  # before its scores are read: the last ones must not be missed
        one.report()
        if running:
            if not one.pruned and one.trial.should_prune():
                one.pruned = True
                one.process.ask_to_stop()
            return
        self.running.remove(one)
        one.process.stop()
        error = one.process.error() or ("" if one.scores else "It ended before its first score.")
        if one.process.interrupted and one.pruned:
            self.study.tell(one.trial, state=TrialState.PRUNED)
        elif one.process.interrupted:
            raise KeyboardInterrupt  # this trial alone was stopped; it can continue
        elif error:
            one.trial.set_user_attr("error", error)
            self.study.tell(one.trial, state=TrialState.FAIL)
        else:
            self.study.tell(one.trial, min(one.scores.values()))
            self.mark_best()

    def _trial(self, trial: optuna.trial.FrozenTrial) -> Trial:
        settings = {
            each.name: each.value(trial.params[each.name]) for each in self.space if each.name in trial.params
        }
        finished = trial.state is TrialState.COMPLETE
        loss = trial.value if finished else min(trial.intermediate_values.values(), default=None)
        higher = bool(trial.user_attrs.get(_HIGHER))
        score = -loss if higher and loss is not None else loss
        status = _STATUS.get(trial.state.name, "running")
        error = str(trial.user_attrs.get("error", ""))
        flattered = bool(trial.user_attrs.get(_FLATTERED))
        folder = self._folder(trial.number)
        return Trial(trial.number + 1, folder, status, settings, score, error, flattered, higher)

    def _text(self, ended: int, trials: int) -> str:
        last = min(ended + max(1, len(self.running)), trials)
        first = min(ended + 1, trials)
        return f"Trial {first} of {trials}" if first == last else f"Trials {first} to {last} of {trials}"

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number + 1:04d}"


@dataclass
class _Running:
    trial: optuna.trial.Trial
    folder: Path
    process: Training
    reported: int
    scores: dict[int, float] = field(default_factory=dict)
    pruned: bool = False

    @property
    def share(self) -> float:
        """How much of it is done."""
        return min(1.0, self.process.done / self.process.total) if self.process.total else 0.0

    def report(self) -> None:
        """Tell the study the scores that are new; a step is a tenth of the budget, however many images."""
        lines = self.process.score_lines()
        if any(line["score"].get("flattered") for line in lines):
            self.trial.set_user_attr(_FLATTERED, True)
        if any(line["score"].get("higher_is_better") for line in lines):
            self.trial.set_user_attr(_HIGHER, True)
        self.scores = held_out_scores(lines)
        for step in sorted(step for step in self.scores if step > self.reported):
            self.trial.report(self.scores[step], step)
            self.reported = step


def held_out_scores(lines: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return a run's scores on held-out images so far, such that lower is better.

    Each has the tenth of its budget as its key, or its number if the run is scored after so many images.
    lines: of `scores.jsonl`.
    """
    return {
        line.get("tenth", number): -score["value"] if score.get("higher_is_better") else score["value"]
        for number, line in enumerate(lines, 1)
        if (score := line["score"])["value"] is not None
    }
