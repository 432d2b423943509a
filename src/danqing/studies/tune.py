"""`tune`: a search for better settings by Optuna, whose every trial is an ordinary run."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from danqing import atomic
from danqing.data import DataReport
from danqing.data.splits import open_held
from danqing.errors import ConfigError, DataError, TrainingError
from danqing.progress import FractionalProgressCallback
from danqing.studies import search_space, study_folder
from danqing.studies.remote_training import started_by
from danqing.training import config_reading
from danqing.training.config import RunConfig
from danqing.training.validation import FEWEST

if TYPE_CHECKING:  # Optuna is an extra, and takes its time
    from danqing.studies.search import Trial

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Tuning:
    """What came of a search.

    status: "finished" or "interrupted". metric: what the trials' scores measure. importance: how much of the
    scores' variance each setting explains, adding up to 1; empty with too few trials.
    """

    folder: Path
    status: str
    metric: str
    trials: "tuple[Trial, ...]"
    importance: dict[str, float] = field(default_factory=dict)

    @property
    def best_trial(self) -> "Trial | None":
        """The finished trial with the best score, by a network that it was not trained with if possible."""
        from danqing.studies.search import best_of

        return best_of(self.trials)

    @property
    def best(self) -> Path | None:
        """The best trial's run folder; None if no trial has finished."""
        return None if self.best_trial is None else self.folder / "best"

    @property
    def best_config(self) -> Path | None:
        """Its configuration, for a longer run with `config=`."""
        return None if self.best_trial is None else self.folder / "best.toml"


def tune(
    data: str | Path,
    *,
    space: str | Path,
    trials: int,
    out: str | Path,
    preset: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    size: tuple[int, int] | Literal["auto"] | None = None,
    minutes: float | None = None,
    images: int | None = None,
    seed: int | None = None,
    pruner: str = "median",
    jobs: int = 1,
    ray: str | None = None,
    cpus: int | None = None,
    device: str = "auto",
    on_progress: FractionalProgressCallback | None = None,
    on_dataset: Callable[[DataReport], None] | None = None,
) -> Tuning:
    """Search for the settings whose model scores best on held-out images.

    The same call again continues the search.

    space: a TOML file with a table for each setting, with `low` and `high`, perhaps `log` or `step`, or with
    `choices`. trials: how many in all. size: (width, height) in pixels, or "auto" for several sizes, as of
    `train`. minutes or images: each trial's budget, by default the preset's own.
    pruner: what stops a trial that is worse than others: "median", "hyperband" or "none". jobs: how many
    trials run at once, each in a process of its own; with one, the same seed proposes the same settings.
    ray: the address of a Ray cluster on whose nodes the trials run, or "auto" for that of this machine.
    cpus: how many CPUs each trial reserves there, and how many threads it has; by default those of the
    smallest node. What the trials are scored by is set by `evaluation.metric` and the like. Ctrl-C ends the
    search, saved. A trial that fails is listed with its reason and not tried again, and the search continues;
    one whose node is lost starts again. Raises DanqingError.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("A search needs Optuna: pip install 'danqing[tune]'.")
    from danqing.studies.search import PRUNERS, Search

    if trials < 1 or jobs < 1:
        raise ConfigError(f"{trials} trials with {jobs} at once cannot be run: both must be at least 1.")
    if pruner not in PRUNERS:
        raise ConfigError(f"There is no pruner called {pruner!r}: choose one of {', '.join(PRUNERS)}.")
    size, settings = config_reading.without_auto(size, settings)
    overrides: dict[str, Any] = {"size": size, "minutes": minutes, "images": images, "seed": seed}
    wanted = config_reading.resolve(preset=preset, config=config, settings=settings, **overrides)
    wanted = _scored(wanted)
    dimensions = search_space.read(space, wanted)
    # What is wrong with the data is said once, before any trial, and the images are decoded once.
    reading = wanted.data.of_source()
    held = open_held(data, wanted.evaluation.held_out, size=wanted.size, **reading)
    if on_dataset is not None:
        on_dataset(held.training.info.report)
    if len(held.judged) < FEWEST:
        raise DataError(
            f"{len(held.judged)} held-out images are too few to score trials by: add images, or raise "
            "evaluation.held_out."
        )
    folder, data = Path(out).expanduser(), Path(data).expanduser() if str(data).startswith("~") else data
    source = str(Path(data).resolve()) if Path(data).exists() else str(data)
    asked = {
        "format": FORMAT,
        "data": source,
        "images": held.training.fingerprint,
        "judged": held.judged.fingerprint,
        "pruner": pruner,
        "config": wanted.model_dump(mode="json"),
        "space": config_reading.read_toml(Path(space)),
    }
    with study_folder.locked(folder, "search"):
        # The data may have moved: the fingerprints of the trials say whether it is the same.
        study_folder.settle(folder, "search", asked, free={"data"})
        (folder / "trials").mkdir(exist_ok=True)
        atomic.write_text(folder / "base.toml", wanted.to_toml())
        task = {"data": source, "config": str((folder / "base.toml").resolve()), "device": device}
        status = "finished"
        with started_by(ray, folder, source, cpus=cpus, device=device) as start:
            search = Search(folder, task, dimensions, pruner, wanted.seed, start)
            try:
                search.run(trials, jobs, on_progress or (lambda done, total, text: None))
            except KeyboardInterrupt:
                status = "interrupted"
        search.mark_best()
        metric = search.metric() or wanted.evaluation.metric
        found = Tuning(folder, status, metric, search.trials(), search.importance())
    if status == "finished" and found.best_trial is None:
        raise TrainingError(f"No trial has finished; the first ended so: {_first_error(found)}")
    return found


def _scored(config: RunConfig) -> RunConfig:
    """The configuration with scores on held-out images, as many as a search takes."""
    if config.evaluation.every_images not in ("auto", 0):
        return config
    evaluation = config.evaluation.model_copy(update={"every_images": "tenth"})
    return config.model_copy(update={"evaluation": evaluation})


def _first_error(tuning: Tuning) -> str:
    return next((trial.error for trial in tuning.trials if trial.error), "it was stopped early.")
