"""`train`: from images and a preset to a run folder."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from danqing import machine, threads
from danqing.data import Dataset, open_dataset
from danqing.data.degrade import Degradation
from danqing.data.splits import Held, open_held
from danqing.errors import ConfigError, TrainingError
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.precision import choose_device
from danqing.progress import Bar
from danqing.training.command import command_line
from danqing.training.config import RunConfig
from danqing.training.config_reading import resolve, without_auto
from danqing.training.display import Display
from danqing.training.first_stage import FirstStage, second_stage_config
from danqing.training.listener import Listener
from danqing.training.memory import memory_errors_explained
from danqing.training.report import document as report
from danqing.training.run_folder import RunFolder
from danqing.training.trackers import check_service
from danqing.training.trainer import Trainer
from danqing.training.validation import FEWEST


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


def train(
    data: str | Path,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    size: tuple[int, int] | Literal["auto"] | None = None,
    minutes: float | None = None,
    images: int | None = None,
    seed: int | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    tokenizer: str | Path | HasModel | Model | None = None,
    track: str | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Run:
    """Train a model on images; the same call again resumes the run.

    data: a folder, a file (zip, tar, Parquet, IDX) or a built-in name such as "emoji".
    preset: "gan-32", unless a configuration file is given.
    config: a configuration file instead of a preset.
    out: the run folder, by default `runs/<data>-<preset>`.
    settings: further `key: value` pairs, as `--set` takes them.
    size: (width, height) in pixels; "auto" learns images of several aspect ratios at sizes of the preset's
    area (`data.buckets`).
    minutes, images: the budget, one of the two; by default, the preset's.
    evaluate_every: score the model on held-out images after every so many images, and keep the best; 0 is
    never. By default, long runs are scored at every tenth of their budget.
    patience: end the run when the score has not improved for this many images.
    tokenizer: a model, its folder, a run or a hub id whose tokenizer is used, if the family needs one,
    instead of training one first.
    track: "wandb" or "mlflow", to log to besides TensorBoard.
    listener: hears of the run's progress; by default a bar on stderr. `Listener()` is silent.

    Ctrl-C saves the run and ends it after the current step. Raises DanqingError.
    """
    check_service(track)
    size, settings = without_auto(size, settings)
    budget = {"minutes": minutes, "images": images}
    dotted: dict[str, Any] = {
        "evaluation.every_images": evaluate_every,
        "evaluation.patience_images": patience,
    }
    if tokenizer is not None:
        dotted["tokenizer.model"] = _named(tokenizer)
    given = {**settings, **{key: value for key, value in dotted.items() if value is not None}}
    wanted = resolve(preset=preset, config=config, settings=given, size=size, seed=seed, **budget)
    folder = RunFolder(out if out is not None else _default_folder(data, preset, config))
    wanted = wanted.model_copy(update={"source": _absolute(data)})
    chosen = choose_device(device)
    folder.create()
    with contextlib.ExitStack() as stack:
        listener = listener or Display(stack.enter_context(Bar()))
        stack.enter_context(disk_errors_explained(folder))
        stack.enter_context(memory_errors_explained())
        stack.enter_context(folder.locked())
        stack.enter_context(folder.recording_failure())
        wanted = folder.settle_config(wanted)
        wanted, dataset, held = open_data(data, wanted, folder, listener)
        listener.on_dataset(dataset.info.report)
        if wanted.data.degrade:
            listener.on_message(f"Source images: {Degradation(wanted.data.degrade).in_words()}")
        folder.check_images(dataset, held)
        options: dict[str, Any] = {
            "out": folder.path,
            "preset": preset,
            "config": config,
            "size": size,
            "seed": seed,
            **budget,
        }
        options |= {"evaluate-every": evaluate_every, "patience": patience}
        options |= {"tokenizer": tokenizer and _model_path(tokenizer), "track": track, "device": device}
        folder.update_facts(command=command_line("train", str(data), options, settings))
        if _is_complete(folder, wanted):
            report.write(folder.path)  # a process that was killed at the end may not have written it
            listener.on_message("This run is complete: give more --images or --minutes to continue it.")
            return read_run(folder.path)
        stack.enter_context(_own_threads(folder, chosen, listener))
        if wanted.tokenizer is None:
            completed = folder.complete(wanted, dataset)
            Trainer(completed, dataset, folder, chosen, listener, held=held, track=track).run()
        elif second := FirstStage(wanted, dataset, held, folder, chosen, listener).run():
            completed, stage = second
            Trainer(completed, dataset, folder, chosen, listener, held=held, track=track, stage=stage).run()
    return read_run(folder.path)


def read_run(path: str | Path) -> Run:
    """Return the run in a folder; raises TrainingError if there is none."""
    folder = RunFolder(path)
    facts = folder.facts()
    folder.check_format()
    if "progress" not in facts:
        raise TrainingError(f"{path} is not a run folder.")
    lines = folder.log_file.read_text(encoding="utf-8").splitlines() if folder.log_file.exists() else []
    return Run(
        folder=folder.path,
        status=facts["status"],
        images=int(facts["progress"]["images"]),
        seconds=facts["progress"]["seconds"]
        + sum((facts.get("tokenizer") or {}).get(name, 0.0) for name in ("seconds", "codes_seconds")),
        images_per_second=facts["progress"]["images_per_second"],
        final=json.loads(lines[-1]) if lines else {},
        reason=facts.get("reason"),
        best=facts.get("best"),
        cost=facts.get("cost") or {},
        evaluation_seconds=facts["progress"].get("evaluation_seconds", 0.0),
        tokenizer=facts.get("tokenizer"),
        ema=facts.get("ema"),
        translates=bool(facts.get("translates")),
        reconstructs=bool(facts.get("reconstructs")),
    )


def open_data(
    source: str | Path, config: RunConfig, folder: RunFolder, listener: Listener
) -> tuple[RunConfig, Dataset, Held | None]:
    """The images to train on and, if the run is evaluated, those that are held out.

    In the configuration that is returned, "auto" has been decided. Raises DataError and TrainingError.
    """
    options: dict[str, Any] = {
        "size": config.size,
        **config.data.of_source(),
        "on_progress": listener.on_data,
    }
    if config.evaluation.every_images == "auto":
        whole = open_dataset(source, **options)
        config = config.with_evaluation("tenth" if config.is_worth_evaluating(len(whole)) else 0)
        folder.write_config(config)
    if not config.evaluation.every_images:
        return config, open_dataset(source, **options), None
    held = open_held(source, config.evaluation.held_out, **options)
    if len(held.judged) < FEWEST:
        raise TrainingError(
            f"{len(held.judged)} images are too few to score on: add images, raise evaluation.held_out, or "
            "train with --evaluate-every 0."
        )
    if config.model.reads_labels:
        _report_lost_labels(open_dataset(source, split="train", **options), held, listener)
    return config, held.training, held


def _report_lost_labels(whole: Dataset, held: Held, listener: Listener) -> None:
    """Say which labels have too few images left to train on, because some are held out."""
    lost = [label for label in whole.label_names if label not in held.training.label_names]
    if lost:
        listener.on_message(
            f"The model will not know {', '.join(lost)}: with some images held out for scores, too few of "
            "these labels are left to train on. Add images, or train with --evaluate-every 0."
        )


@contextlib.contextmanager
def disk_errors_explained(folder: RunFolder) -> Iterator[None]:
    """Raise TrainingError with what to do if a file of a run cannot be written or read."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or folder.path} cannot be written or read ({error.strerror or error}): "
            "free some space or repair the folder, then run the same command again to resume."
        ) from error


@contextlib.contextmanager
def _own_threads(folder: RunFolder, device: torch.device, listener: Listener) -> Iterator[None]:
    """Use as many threads as the run began with, or, in a new run, as many as there are free cores.

    The number of threads decides how sums are rounded, so another number would give other weights. Threads
    wait for each other often, so that a single one without a core of its own slows down all of them.
    """
    here = torch.get_num_threads()
    own = int(folder.facts().get("hardware", {}).get("threads", 0))
    if device.type != "cpu":
        own = here
    elif own not in (0, here):
        listener.on_message(
            f"This run began with {own} thread{'s' * (own > 1)} and keeps that number, although this process "
            f"could use {here}: the number of threads decides how sums are rounded."
        )
    elif not own:
        own = here if here == 1 or threads.is_count_chosen() else min(here, threads.free_cores())
        if own < here:
            listener.on_message(
                f"Other processes keep cores busy, so this run uses {own} of {here} threads, which is faster "
                f"now. It keeps that number; OMP_NUM_THREADS={here} sets it for a new run."
            )
    with machine.computing_threads(own):
        yield


def _is_complete(folder: RunFolder, wanted: RunConfig) -> bool:
    facts = folder.facts()
    if "tokenizer" in facts:
        wanted = second_stage_config(wanted, facts["tokenizer"])
    budget = {"images": wanted.images, "minutes": wanted.minutes}
    if facts.get("reason") and facts.get("patience_images") != wanted.evaluation.patience_images:
        return False  # it ended early, and now has more patience
    return facts.get("status") == "finished" and facts.get("budget") == budget


def _default_folder(data: str | Path, preset: str | None, config: str | Path | None) -> Path:
    name = Path(str(data).replace(":", "-")).stem or "images"
    return Path("runs") / f"{name}-{Path(config).stem if config is not None else preset or 'gan-32'}"


def _model_path(model: str | Path | HasModel | Model) -> str:
    if isinstance(model, Model):
        if model.origin is None:
            raise ConfigError(
                "This model is not in a folder: give its hub id, or save it and give its folder."
            )
        return str(model.origin)
    return str(model) if isinstance(model, str | Path) else str(model.model)


def _named(model: str | Path | HasModel | Model) -> str:
    """A model as a setting, which is TOML: its absolute path or its hub id."""
    return json.dumps(_absolute(_model_path(model)), ensure_ascii=False)


def _absolute(data: str | Path) -> str:
    """The source as an absolute path, so that a run can be resumed from another folder."""
    return str(Path(data).resolve()) if Path(data).exists() else str(data)
