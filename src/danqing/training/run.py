"""`train`: from images and a preset to a run folder."""

import contextlib
import dataclasses
import functools
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec

import torch

from danqing import interpreter, machine, threads
from danqing.cluster import ledger as ledgers
from danqing.cluster.launch import end_with_launcher, launch
from danqing.cluster.place import Place, check_power_of_two
from danqing.cluster.world import joined, world
from danqing.data.degrade import Degradation
from danqing.data.splits import Held
from danqing.errors import ConfigError, TrainingError
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.precision import choose_device
from danqing.progress import Bar
from danqing.recognition.first_look import first_look
from danqing.training import (
    adapting,
    generated,
    label_advice,
    measured_runs,
    private_rules,
    pseudo_labels,
    sharding,
)
from danqing.training.command import command_line, in_one_word
from danqing.training.config import RunConfig
from danqing.training.config_reading import DEFAULT_PRESET, without_auto
from danqing.training.display import Display
from danqing.training.first_stage import FirstStage, second_stage_config
from danqing.training.following import Lead, follow
from danqing.training.grains import grains_of
from danqing.training.listener import Listener
from danqing.training.memory import memory_errors_explained
from danqing.training.outcome import Run, read_run
from danqing.training.report import document as report
from danqing.training.request import model_path, read_request
from danqing.training.run_data import open_data
from danqing.training.run_folder import RunFolder
from danqing.training.trackers import check_service
from danqing.training.trainer import Trainer
from danqing.trust.settings import MarkSettings

P = ParamSpec("P")


def _on_all_processes(function: Callable[P, Run]) -> Callable[P, Run]:
    """Let all processes of a run compute it: the first calls the function, and the others follow.

    Processes that `processes` requests and that nobody has started are started.
    """

    @functools.wraps(function)
    def together(*args: P.args, **kwargs: P.kwargs) -> Run:
        if world().size > 1:  # a run within a run
            return function(*args, **kwargs)
        place, processes = Place.of(), kwargs.get("processes")
        if isinstance(processes, int):
            check_power_of_two(processes, "processes")
            if place is None and processes > 1:
                return _launched(processes, *args, **kwargs)
            if place is not None and place.size != processes:
                raise ConfigError(
                    f"{processes} processes are requested, and {place.size} have been started: leave "
                    "--processes out, or start as many."
                )
        end_with_launcher()
        with joined(place) as here:
            if here.rank:
                device = _device_of(str(kwargs.get("device", "auto")))
                found = follow(here, device, open_data)
                return Run(**{**found, "folder": Path(found["folder"])})
            run = function(*args, **kwargs)
            Lead().end({**dataclasses.asdict(run), "folder": str(run.folder.resolve())})
            return run

    return together


@_on_all_processes
def train(
    data: str | Path,
    *,
    preset: str | None = None,
    task: str | None = None,
    mode: str | None = None,
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
    init: str | Path | HasModel | Model | None = None,
    clean: str | Path | None = None,
    private: Mapping[str, Any] | None = None,
    secure: bool = False,
    track: str | None = None,
    processes: int | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Run:
    """Train a model on images; the same call again resumes the run.

    data: a folder, a file (zip, tar, Parquet, IDX), a URL of shards, or a built-in name such as "emoji".
    preset: "gan-32", unless a task or a configuration file is given.
    task: what an editor of images is for, instead of a preset: a key of `training.tasks.TASKS`, such as
    "upscale".
    mode: how an editor computes, "regression" (one evaluation) or "flow" (a few); by default, the first that
    the task has.
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
    init: a model, its folder, a run or a hub id whose weights the run starts from, as far as they fit. It
    decides the settings of the network, and the preset unless there is another.
    clean: a clean list, as `danqing.clean` writes it: images that it drops are left out, and labels that it
    corrects are changed.
    private: settings of differential privacy for the training images, such as {"epsilon": 8}: keys of the
    section `private`.
    secure: draw a secret key for the noise of a private run, instead of deriving it from the seed.
    track: "wandb" or "mlflow", to log to besides TensorBoard.
    processes: how many processes of this machine compute the run together, a power of two. The weights do not
    depend on it. A new run then has at least 4 grains (`training.grains`). Under `torchrun`, they are those
    that it starts.
    listener: hears of the run's progress; by default a bar on stderr. `Listener()` is silent. It hears
    nothing of a run for which this call starts several processes.

    Ctrl-C saves the run and ends it after the current step. Raises DanqingError.
    """
    started = ledgers.started()
    check_service(track)
    MarkSettings.from_environment()  # a mistake in it must not end the run at its first grid
    request = read_request(
        data,
        preset=preset,
        task=task,
        mode=mode,
        config=config,
        settings=settings or {},
        size=size,
        minutes=minutes,
        images=images,
        seed=seed,
        evaluate_every=evaluate_every,
        patience=patience,
        tokenizer=tokenizer,
        init=init,
        clean=clean,
        private=private or {},
        secure=secure,
        processes=processes,
    )
    wanted, source = request.config, request.source
    folder = RunFolder(out if out is not None else _default_folder(data, request.preset, config))
    chosen = _device_of(device)
    folder.create()
    with contextlib.ExitStack() as stack:
        listener = listener or Display(stack.enter_context(Bar()))
        stack.enter_context(disk_errors_explained(folder))
        stack.enter_context(memory_errors_explained())
        stack.enter_context(folder.locked())
        stack.enter_context(folder.recording_failure())
        wanted = folder.settle_config(wanted, keeps_grains=not request.chooses_grains)
        grains_of(wanted)  # raises where there are too few
        wanted, dataset, held = open_data(data, wanted, listener)
        private_rules.check_data(wanted, dataset)
        sharding.open_codes(dataset, wanted, chosen)
        if source is not None:
            private_rules.check_init(wanted, source, dataset)
        listener.on_dataset(dataset.info.report)
        if unusual := first_look(dataset, data):
            listener.on_message(unusual)
        if wanted.data.degrade:
            of_pairs = " of the pairs" if wanted.data.pairs else ""
            made = Degradation(wanted.data.degrade).in_words()
            listener.on_message(f"Source images{of_pairs}: {made}")
        folder.check_images(dataset, held)
        folder.write_config(wanted)
        options: dict[str, Any] = {
            "out": folder.path,
            "preset": request.preset,
            "config": config,
            "size": request.size,
            "seed": seed,
            "minutes": minutes,
            "images": images,
        }
        options |= {"evaluate-every": evaluate_every, "patience": patience}
        options |= {"tokenizer": tokenizer and model_path(tokenizer), "init": init and model_path(init)}
        options |= {"clean": clean, "private": in_one_word(private), "secure": secure or None}
        options |= {"track": track, "processes": processes, "device": device}
        folder.update_facts(command=command_line("train", str(data), options, request.settings))
        if wanted.data.generated:
            generated.check(wanted, held)
        if wanted.data.unlabelled:
            pseudo_labels.check(wanted)
        if _is_complete(folder, wanted):
            report.write(folder.path)  # a process that was killed at the end may not have written it
            listener.on_message("This run is complete: give more --images or --minutes to continue it.")
            return _compared(folder, wanted, held, data, listener, device)
        if advice := adapting.advice(len(dataset) + len(held.judged if held else ()), wanted):
            listener.on_advice(advice)
        for advice in label_advice.advice(dataset, wanted, is_scored=held is not None):
            listener.on_advice(advice)
        if config is None and not folder.has_checkpoints:
            name = request.preset or DEFAULT_PRESET
            if advice := measured_runs.preset_advice(wanted, name, dataset.size):
                listener.on_advice(advice)
        stack.enter_context(_own_threads(folder, wanted, chosen, listener))
        Lead().open(wanted, dataset)
        ledger = ledgers.Ledger(folder.goodput_file, started)
        shared: dict[str, Any] = {"held": held, "track": track, "ledger": ledger}
        if wanted.tokenizer is None:
            completed = adapting.complete(folder, wanted, dataset)
            Trainer(completed, dataset, folder, chosen, listener, **shared).run()
        elif second := FirstStage(wanted, dataset, held, folder, chosen, listener, ledger).run():
            completed, stage = second
            Trainer(completed, dataset, folder, chosen, listener, **shared, stage=stage).run()
        return _compared(folder, wanted, held, data, listener, device)


def _device_of(name: str) -> torch.device:
    """Return the device of this process; processes on one machine share its GPUs."""
    device, place = choose_device(name), world().place
    if device.type == "cuda" and device.index is None and place.local_size > 1:
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def _launched(count: int, data: Any, **arguments: Any) -> Run:
    """Compute a run in `count` processes that are started here; arguments: those of `train`."""
    size, settings = without_auto(arguments.pop("size", None), arguments.pop("settings", None))
    arguments |= {name: model_path(given) for name in ("tokenizer", "init") if (given := arguments.get(name))}
    arguments |= {"size": size, "private": in_one_word(arguments.get("private"))}
    arguments["secure"] = arguments.get("secure") or None
    is_quiet = arguments.pop("listener", None) is not None or None
    options = {name.replace("_", "-"): value for name, value in arguments.items()}
    options |= {"json": True, "quiet": is_quiet}
    words = shlex.split(command_line("train", str(data), options, settings))[1:]
    status, written = launch(interpreter.command("danqing", *words), count, output=subprocess.PIPE)
    answer = json.loads(written) if written.strip() else {}
    if "run" not in answer:
        raise TrainingError(answer.get("error") or f"The processes of the run ended with status {status}.")
    return read_run(answer["run"])


def _compared(
    folder: RunFolder, config: RunConfig, held: Held | None, data: str | Path, listener: Listener, device: str
) -> Run:
    """Return the run, after measuring what generated or unlabelled images changed, if it used any."""

    def train_again(file: Path, out: Path) -> bool:
        run = train(data, config=file, out=out, device=device, listener=listener)
        return run.status == "finished"

    recorded = False
    if held is not None and folder.facts().get("status") == "finished":
        if config.data.generated:
            recorded = generated.compare(folder, config, held, train_again, listener)
        elif config.data.unlabelled:
            recorded = pseudo_labels.compare(folder, config, held)
    if recorded:
        report.write(folder.path)
    return read_run(folder.path)


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
def _own_threads(
    folder: RunFolder, config: RunConfig, device: torch.device, listener: Listener
) -> Iterator[None]:
    """Use as many threads as the run began with, or, in a new run, as many as there are free cores.

    The grains of a run say themselves how many threads they need.

    The number of threads decides how sums are rounded, so another number would give other weights. Threads
    wait for each other often, so that a single one without a core of its own slows down all of them.
    """
    here = torch.get_num_threads()
    own = int(folder.facts().get("hardware", {}).get("threads", 0))
    grains = grains_of(config)
    if device.type != "cpu":
        own = here
    elif grains is not None:
        own = grains.threads()
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
    return Path("runs") / f"{name}-{Path(config).stem if config is not None else preset or DEFAULT_PRESET}"
