"""The run: from its first step, or from where a killed one stopped, to the model folder and the report."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from danqing.data import Batches, Dataset
from danqing.errors import TrainingError
from danqing.images import Images
from danqing.machine import hardware
from danqing.model import Model
from danqing.randomness import generator
from danqing.training import checkpoint, report
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.estimate import estimate
from danqing.training.guard import Watch
from danqing.training.listener import Listener, Plan, Progress
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import Budget
from danqing.training.tracking import AppendedLines, open_board
from danqing.version import __version__

REPLAN_AT = (0.03, 0.1, 0.3, 0.6, 0.85)
"""Shares of a budget in minutes at which the number of images it buys is measured again."""


@dataclass
class Position:
    """Where a run stands; with the engine's tensors, all that a checkpoint holds.

    learning_rate_scale: 1, or less after a rollback.
    """

    images: int = 0
    step: int = 0
    seconds: float = 0.0
    learning_rate_scale: float = 1.0
    rollbacks: int = 0


class Trainer:
    """Runs the training steps of one run folder, and owns everything that is written into it.

    The folder must exist and be locked; `config` must have been completed with `for_data`.
    """

    def __init__(
        self, config: RunConfig, dataset: Dataset, folder: RunFolder, device: torch.device, listener: Listener
    ) -> None:
        self.config, self.dataset, self.folder, self.listener = config, dataset, folder, listener
        self.device = device
        self.position = Position()
        self.budget = Budget.read(folder.budget_file)
        self.stopped_by_user = False
        self.batches = self._batches(config)
        self._started = 0.0
        self._logged: Mapping[str, float] = {}
        self._painted_at = -1

    def run(self) -> str:
        """Train until the budget is spent or the user stops it: "finished" or "interrupted".

        Raises TrainingError when the loss stops being a number again after a rollback, or the disk refuses.
        """
        self._prepare()
        if self.position.images >= self.budget.total(self.position.images):
            self._close("finished")
            return "finished"
        try:
            with self._signals_stop():
                status = self._train()
        except BaseException as error:
            at_once = isinstance(error, KeyboardInterrupt)  # the second Ctrl-C
            reason = None if at_once else str(error) or type(error).__name__
            with contextlib.suppress(OSError):  # the disk may be what failed: the error itself matters more
                self._close("interrupted" if at_once else "failed", reason)
            raise
        if status == "finished" and self.engine.meter.sums:  # a budget in minutes may end between two lines
            self._log(self.position.images)
        self._save_checkpoint()
        if self._painted_at != self.position.images and self.engine.weights_are_finite():
            self._paint()
        self._close(status)
        return status

    def _train(self) -> str:
        self._started = time.monotonic() - self.position.seconds
        last_saved = time.monotonic()
        while self.position.images < self.budget.total(self.position.images):
            if self.stopped_by_user:
                return "interrupted"
            self._step()
            if time.monotonic() - last_saved > self.config.training.checkpoint_seconds:
                self._save_checkpoint()
                last_saved = time.monotonic()
        return "finished"

    def _step(self) -> None:
        position, engine = self.position, self.engine
        total = self.budget.total(position.images)
        broken = engine.step(position.images, position.step, total, position.learning_rate_scale)
        watched = self.device.type == "cpu" or position.step % self.config.training.log_every_steps == 0
        if watched and not bool(torch.isfinite(broken)):
            self._roll_back()
            return
        before = position.images
        position.images += engine.images_per_step
        position.step += 1
        position.seconds = time.monotonic() - self._started
        if position.step % self.config.training.log_every_steps == 0 or position.images >= total:
            self._log(total)
        self._replan()
        grids = self.config.training.sample_grids
        if before * grids // total < min(position.images, total) * grids // total:
            if not engine.weights_are_finite():  # a broken gradient under a sound loss
                self._roll_back()
                return
            self._paint()
        self.listener.on_progress(self._progress(total))

    def _prepare(self) -> None:
        """Take up the last checkpoint or start anew, and find out what the run will need."""
        facts = self.folder.facts()
        found = checkpoint.read_latest(self.folder.checkpoints)
        # A run keeps the number format that it began with, whatever would be faster today.
        precision = facts.get("plan", {}).get("precision", self.config.training.precision)
        measured = estimate(self.config, self.batches, self.device, precision)
        self.engine = Engine(self.config, self.batches, self.device, measured.precision)
        self.log, self.timing = AppendedLines(self.folder.log_file), AppendedLines(self.folder.timing_file)
        if found is None:
            self.log.cut(0)
            self.timing.cut(0)
        else:
            self._take_up(*found)
        self._set_budget(measured.images_per_second)
        self.watch = Watch(self.engine.family, [a["text"] for a in facts.get("alarms", [])], self.log.read())
        self.board = open_board(self.folder.tensorboard, self.position.images)
        self.real = self._real_images()
        total = self.budget.total(self.position.images)
        left = max(total - self.position.images, 0)
        plan = Plan(
            parameters=measured.parameters,
            memory_bytes=measured.memory_bytes,
            images=total,
            seconds=left / measured.images_per_second,
            images_per_second=measured.images_per_second,
            precision=measured.precision,
            device=str(self.device),
            resumed_from=self.position.images,
        )
        self._write_facts(plan, facts)
        if found is None:
            self.folder.samples.joinpath("data.png").unlink(missing_ok=True)
            self.real.save(self.folder.samples / "data.png")
            self._paint()
            self._save_checkpoint()  # last: whoever resumes from it need not make up for the rest
        self.listener.on_plan(plan)

    def _take_up(
        self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any], complaints: list[str]
    ) -> None:
        for complaint in complaints:
            self.listener.on_message(complaint)
        self.position = Position(**state["position"])
        self.engine.load_tensors(tensors, state["meter_counts"])
        self.log.cut(state["log_bytes"])
        self.timing.cut(state["timing_bytes"])

    def _save_checkpoint(self) -> None:
        if not self.engine.weights_are_finite():
            return  # the next step's loss will tell; the last good checkpoint must stay
        state = {
            "position": vars(self.position),
            "meter_counts": self.engine.meter.counts,
            "log_bytes": self.log.sync(),
            "timing_bytes": self.timing.sync(),
        }
        checkpoint.write(self.folder.checkpoints, self.position.images, self.engine.tensors(), state)
        self.folder.update_facts(progress=self._progress_facts())

    def _roll_back(self) -> None:
        """Go back to the last good checkpoint with half the learning rate; the second time, give up."""
        if self.position.rollbacks:
            raise TrainingError(
                f"The loss stopped being a number after {self.position.images} images, twice: lower "
                "optimizer.learning_rate, set training.clip_norm=1, or set training.precision=float32."
            )
        found = checkpoint.read_latest(self.folder.checkpoints)
        if found is None:
            raise TrainingError(
                "The loss stopped being a number before anything was saved: lower optimizer.learning_rate."
            )
        seconds, broken_at = self.position.seconds, self.position.images
        self._take_up(*found)
        self.position.seconds, self.position.rollbacks = seconds, 1
        self.position.learning_rate_scale *= 0.5
        self._save_checkpoint()
        self._alarm(
            f"The loss stopped being a number after {broken_at} images: training went back to "
            f"{self.position.images} and goes on with half of optimizer.learning_rate."
        )

    def _set_budget(self, images_per_second: float) -> None:
        """Give a new run its budget, and an old one the part that the same command with a larger budget
        adds.
        """
        config, images = self.config, self.position.images
        asked = {"images": config.images, "minutes": config.minutes}
        if self.budget.entries and self.folder.facts().get("budget") == asked:
            return
        if config.images is not None:
            total = config.images
        elif config.minutes is not None:
            total = images + int(max(config.minutes * 60 - self.position.seconds, 0) * images_per_second)
        else:
            raise TrainingError("Say how long to train: --minutes 5, or --images 200000.")
        step = self.engine.images_per_step
        self.budget.entries.clear()
        self.budget.set(images, max(images, -(-total // step) * step))
        self.folder.update_facts(budget=asked)

    def _replan(self) -> None:
        """For a budget in minutes: correct the number of images by the speed so far, at a few fixed
        points.
        """
        minutes, position, entries = self.config.minutes, self.position, self.budget.entries
        if minutes is None or len(entries) > len(REPLAN_AT):
            return
        spent = max(position.seconds / (minutes * 60), position.images / entries[-1][1])
        if spent < REPLAN_AT[len(entries) - 1]:
            return
        if entries[-1][0] > position.images:
            return  # a process that was killed has corrected it further on: this one will get there
        left = max(minutes * 60 - position.seconds, 0) * position.images / position.seconds
        step = self.engine.images_per_step
        self.budget.set(position.images, position.images + round(left / step) * step)

    def _log(self, total: int) -> None:
        position = self.position
        record: dict[str, float] = {"images": position.images, "step": position.step}
        record["learning_rate"] = self.engine.learning_rate(
            position.images, total, position.learning_rate_scale
        )
        record |= self.engine.meter.drain()
        self.log.append(record)
        self.timing.append(self._progress_facts())
        self._logged = record
        if self.board is not None:
            for name, value in record.items():
                if name not in ("images", "step"):
                    self.board.add_scalar(name, value, position.images)
        for text in self.watch.on_log(record):
            self._alarm(text)

    def _paint(self) -> None:
        """Paint the grid of fixed seeds, and bring the model folder up to date."""
        model = self._model()
        count, labels = self.config.training.sample_images, self.config.model.labels
        shown = [i * len(labels) // count if len(labels) <= count else i % len(labels) for i in range(count)]
        samples = model.sample(count, label=shown if labels else None, seed=self.config.seed)
        path = self.folder.samples / f"{self.position.images:09d}.png"
        samples.save(path)
        self._painted_at = self.position.images
        model.save(self.folder.model, samples)
        if self.board is not None:
            grid = np.asarray(samples.grid(scale=1).convert("RGB"))
            self.board.add_image("samples", grid, self.position.images, dataformats="HWC")
            self.board.flush()
        self.listener.on_samples(path)
        if self.position.images * 3 > self.budget.total(self.position.images):
            for text in self.watch.on_samples(samples.array, self.real.array):
                self._alarm(text)

    def _model(self) -> Model:
        info = self.dataset.info
        facts = {
            "images": self.position.images,
            "seconds": round(self.position.seconds, 1),
            "precision": self.engine.precision,
            "seed": self.config.seed,
            "data": {
                "name": info.name,
                "images": len(self.dataset),
                "fingerprint": self.dataset.fingerprint,
                "licence": info.licence,
                "citation": info.citation,
            },
        }
        return Model(self.engine.ema.family, facts)

    def _alarm(self, text: str) -> None:
        alarms = self.folder.facts().get("alarms", [])
        self.folder.update_facts(alarms=[*alarms, {"images": self.position.images, "text": text}])
        self.listener.on_alarm(text)

    def _close(self, status: str, reason: str | None = None) -> None:
        for lines in (self.log, self.timing):
            lines.close()
        if self.board is not None:
            self.board.close()
        cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        cost = {"core_hours": self.position.seconds * cores / 3600, "energy_wh": None}
        self.folder.update_facts(status=status, reason=reason, progress=self._progress_facts(), cost=cost)
        report.write(self.folder.path)

    def _write_facts(self, plan: Plan, earlier: Mapping[str, Any]) -> None:
        self.folder.update_facts(
            version=__version__,
            status="running",
            reason=None,
            data=_data_facts(self.dataset, self.config),
            hardware=hardware(self.device),
            plan={
                "parameters": plan.parameters,
                "memory_bytes": plan.memory_bytes,
                "images": plan.images,
                "seconds": plan.seconds,
                "images_per_second": plan.images_per_second,
                "precision": plan.precision,
            },
            progress=self._progress_facts(),
            alarms=earlier.get("alarms", []),
        )

    def _progress(self, total: int) -> Progress:
        position = self.position
        left = (total - position.images) * position.seconds / max(position.images, 1)
        return Progress(position.images, total, position.seconds, max(left, 0.0), self._logged)

    def _progress_facts(self) -> dict[str, float]:
        position = self.position
        speed = position.images / position.seconds if position.seconds else 0.0
        return {"images": position.images, "seconds": position.seconds, "images_per_second": speed}

    def _batches(self, config: RunConfig) -> Batches:
        return Batches(
            self.dataset,
            config.batch_size // config.training.accumulate,
            config.seed,
            augment=config.data.augment if config.data.augment is not None else self.dataset.info.augment,
            device=self.device,
            use_labels=bool(config.model.labels),
        )

    def _real_images(self) -> Images:
        """As many real images as a grid has, drawn evenly from the data."""
        count = min(self.config.training.sample_images, len(self.dataset))
        rng = generator(self.config.seed, "real images")
        chosen = torch.randperm(len(self.dataset), generator=rng)[:count].numpy()
        return Images(self.dataset.images(np.sort(chosen)))

    @contextlib.contextmanager
    def _signals_stop(self) -> Iterator[None]:
        """Let Ctrl-C and a polite kill end the run after its current step; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def stop(number: int, frame: Any) -> None:
            self.stopped_by_user = True
            signal.signal(number, before[signal.Signals(number)])

        for number in numbers:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _data_facts(dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    info, labels = dataset.info, dataset.labels
    counts = {}
    if labels is not None:
        found = np.bincount(labels[labels >= 0], minlength=len(dataset.label_names))
        counts = dict(zip(dataset.label_names, map(int, found), strict=True))
    return {
        "name": info.name,
        "source": str(info.source),
        "images": len(dataset),
        "width": dataset.size[0],
        "height": dataset.size[1],
        "channels": dataset.channels,
        "labels": counts,
        "fingerprint": dataset.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        "skipped": [[file.name, file.reason] for file in info.report.skipped_files],
    }
