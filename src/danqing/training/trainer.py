"""The run: from its first step, or from where a killed one stopped, to the model folder and the report."""

import contextlib
import copy
import time
from collections.abc import Mapping
from typing import Any

import torch

from danqing import machine
from danqing.data import Batches, Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.families.base import Alarm, Family
from danqing.model.model import Model
from danqing.training import captions, checkpoint, facts, pairing, publication
from danqing.training.codes import CodedBatches, augmentation, batch_options
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.estimate import estimate
from danqing.training.guard import Watch
from danqing.training.interruption import Interruption
from danqing.training.listener import Listener, Plan, Progress
from danqing.training.position import Position
from danqing.training.report import document as report
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import Budget
from danqing.training.stage import Stage
from danqing.training.trackers import open_trackers
from danqing.training.tracking import AppendedLines
from danqing.training.validation import Best, Validation
from danqing.version import __version__


class Trainer:
    """Runs the training steps of one run folder, and owns everything that is written into it.

    The folder must exist and be locked; `config` must have been completed with `for_data`. held: the images
    to score by, and those to learn from, which `dataset` then is; None where nothing is held out. track: the
    service to tell of the run, besides TensorBoard. stage: where a run has two, which of them this is.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        folder: RunFolder,
        device: torch.device,
        listener: Listener,
        *,
        held: Held | None = None,
        track: str | None = None,
        stage: Stage = Stage(),  # noqa: B008 (immutable)
    ) -> None:
        self.config, self.dataset, self.folder, self.listener = config, dataset, folder, listener
        self.device, self.held, self.track, self.stage = device, held, track, stage
        self.tokenizer = stage.tokenized.tokenizer if stage.tokenized else None
        self.position = Position()
        self.budget = Budget.read(folder.budget_file)
        self.interruption = Interruption()
        self.validation: Validation | None = None
        self.energy = machine.EnergyMeter.open(device)
        self.batches = self._batches()
        self._started = 0.0
        self._logged: Mapping[str, float] = {}
        self._painted_at = -1

    def run(self) -> str:
        """Train until the budget is spent or the user stops it: "finished" or "interrupted".

        Raises TrainingError when the loss stops being a number again after a rollback, or the disk refuses.
        """
        self._prepare()
        try:
            with self.interruption.heard():
                status = self._train()
                if status == "finished":
                    self._evaluate_at_the_end()
        except BaseException as error:
            at_once = isinstance(error, KeyboardInterrupt)  # the second Ctrl-C
            reason = None if at_once else str(error) or type(error).__name__
            with contextlib.suppress(OSError):  # the disk may be what failed: the error itself matters more
                self._close("interrupted" if at_once else "failed", reason)
            raise
        if status == "finished" and self.engine.meter.sums:  # a budget in minutes may end between two lines
            self._log(self.budget.total(self.position.images))
        self._save_checkpoint()
        if self._painted_at != self.position.images and self.engine.weights_are_finite():
            self._paint()
        spent = self.position.images >= self.budget.total(self.position.images)
        self._close(status, self._stall() if status == "finished" and not spent else None)
        return status

    def _train(self) -> str:
        self._started = time.monotonic() - self.position.seconds
        last_saved = time.monotonic()
        while self.position.images < self.budget.total(self.position.images) and not self._stall():
            if self.interruption.wanted:
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
        minutes, step_images = self.config.minutes, engine.images_per_step
        if minutes is not None:
            self.budget.replan(minutes * 60, position.seconds, position.images, step_images)
        grids = self.config.training.sample_grids
        if before * grids // total < min(position.images, total) * grids // total:
            if not engine.weights_are_finite():  # a broken gradient under a sound loss
                self._roll_back()
                return
            self._paint()
        if self.validation and self.validation.is_due(before, position.images, self.budget):
            self._evaluate()
        self.listener.on_progress(self._progress(total))

    def _prepare(self) -> None:
        """Take up the last checkpoint or start anew, and find out what the run will need."""
        earlier = self.folder.facts()
        found = checkpoint.read_latest(self.folder.checkpoints)
        # A run keeps the number format that it began with, whatever would be faster today.
        precision = earlier.get("plan", {}).get("precision", self.config.training.precision)
        if not self.stage.tokenized:  # else they were read before the first stage, or instead of it
            captions.read(self.config.model, self.dataset, self.listener)
        try:
            measured = estimate(self.config, self.batches, self.device, precision, self.tokenizer)
        except TrainingError as error:
            raise TrainingError(self._told(str(error))) from error
        self.engine = Engine(self.config, self.batches, self.device, measured.precision, self.tokenizer)
        self.log, self.timing = AppendedLines(self.folder.log_file), AppendedLines(self.folder.timing_file)
        self.real = publication.real_images(self.dataset, self.config)
        self.shown = publication.real_images(self.held.judged, self.config) if self.held else self.real
        started = time.monotonic()
        if self.held is not None and self.config.evaluation.every_images:
            lines = AppendedLines(self.folder.scores_file)
            self.validation = Validation(self.config, self.held, lines, self.device, self.listener.on_data)
        opening = time.monotonic() - started if self.validation else 0.0
        if found is None:
            for lines in self._lines():
                lines.cut(0)
        else:
            with self.folder.readable():
                self._take_up(*found)
        self.position.evaluation_seconds += opening
        self._settle_budget(measured.images_per_second)
        raised = [alarm.get("kind", "") for alarm in earlier.get("alarms", [])]
        self.watch = Watch(self.engine.learner, raised, self.log.read())
        values = self.config.model_dump(mode="json")
        self.trackers = open_trackers(
            self.track, self.folder, values, self.position.images, self.listener.on_message
        )
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
            stage=self.stage.name,
            then=self.stage.then,
        )
        self._write_facts(plan, earlier)
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
        if self.validation:
            self.validation.take_up(tensors, state["validation"])
            best = self.validation.best
            if best is not None:
                self._publish(best)
            self.folder.update_facts(best=facts.of_best(best) if best else None)

    def _save_checkpoint(self) -> None:
        if not self.engine.weights_are_finite():
            return  # the next step's loss will tell; the last good checkpoint must stay
        self._count_costs()
        tensors = self.engine.tensors()
        state = {
            "position": vars(self.position),
            "meter_counts": self.engine.meter.counts,
            "log_bytes": self.log.sync(),
            "timing_bytes": self.timing.sync(),
        }
        if self.validation:
            tensors |= self.validation.tensors()
            state["validation"] = self.validation.state()
        checkpoint.write(self.folder.checkpoints, self.position.images, tensors, state)
        self.folder.update_facts(progress=self.position.facts())

    def _roll_back(self) -> None:
        """Go back to the last good checkpoint with half the learning rate; the second time, give up."""
        if self.position.rollbacks:
            text = (
                f"The loss stopped being a number after {self.position.images} images, twice: lower "
                "optimizer.learning_rate, set training.clip_norm=1, or set training.precision=float32."
            )
            raise TrainingError(self._told(text))
        found = checkpoint.read_latest(self.folder.checkpoints)
        if found is None:
            text = "The loss stopped being a number before anything was saved: lower optimizer.learning_rate."
            raise TrainingError(self._told(text))
        broken = self.position
        self._take_up(*found)
        for spent in ("seconds", "evaluation_seconds", "energy_joules", "peak_memory_bytes"):
            setattr(self.position, spent, getattr(broken, spent))
        self.position.rollbacks = 1
        self.position.learning_rate_scale *= 0.5
        self._save_checkpoint()
        text = (
            f"The loss stopped being a number after {broken.images} images: training went back to "
            f"{self.position.images} and goes on with half of optimizer.learning_rate."
        )
        self._alarm(Alarm("rollback", text))

    def _settle_budget(self, images_per_second: float) -> None:
        """Give a new run its budget, and an old one the part that the same command with a larger budget
        adds.
        """
        config, position = self.config, self.position
        asked = {"images": config.images, "minutes": config.minutes}
        if self.budget.entries and self.folder.facts().get("budget") == asked:
            return
        if config.images is not None:
            total = config.images
        elif config.minutes is not None:
            left = max(config.minutes * 60 - position.seconds, 0)
            total = position.images + int(left * images_per_second)
        else:
            raise TrainingError("Say how long to train: --minutes 5, or --images 200000.")
        self.budget.begin(position.images, total, self.engine.images_per_step)
        self.folder.update_facts(budget=asked)

    def _log(self, total: int) -> None:
        position = self.position
        record: dict[str, float] = {"images": position.images, "step": position.step}
        record["learning_rate"] = self.engine.learning_rate(
            position.images, total, position.learning_rate_scale
        )
        record |= self.engine.meter.drain()
        self.log.append(record)
        self.timing.append(self.position.facts())
        self._logged = record
        shown = {name: value for name, value in record.items() if name not in ("images", "step")}
        self.trackers.log(shown, position.images)
        self._count_costs()  # a counter of energy comes round within the hour
        for alarm in self.watch.on_log(record):
            self._alarm(alarm)

    def _paint(self) -> None:
        """Sample the grid of fixed seeds where the learner can, and bring the model folder up to date.

        Until there is a score, the latest model is the best.
        """
        if not isinstance(self.engine.ema.learner, Family):
            publication.publish_learner(self.folder.model, self.engine.ema.learner, self._trained())
            self._painted_at = self.position.images
            return
        model = self._model()
        samples = publication.grid(model, self.config, self.shown)
        path = self.folder.samples / f"{self.position.images:09d}.png"
        samples.save(path)
        self._painted_at = self.position.images
        is_latest = self.validation is None or self.validation.best is None
        if is_latest and not publication.holds(self.folder.model, model):
            publication.publish(self.folder.model, model, samples)
        self.trackers.picture(path, self.position.images)
        self.listener.on_samples(path)
        if self.position.images * 3 > self.budget.total(self.position.images):
            painted = samples.array[:, :, -self.dataset.size[0] :]  # beside the originals, in a first stage
            for alarm in self.watch.on_samples(painted, self.real.array):
                self._alarm(alarm)

    def _evaluate(self) -> None:
        """Score the moving average on the held-out images; the best goes into the model folder. The time that
        it takes is not the budget's.
        """
        assert self.validation is not None
        if not self.engine.weights_are_finite():
            self._roll_back()
            return
        started = time.monotonic()
        images = self.position.images
        scored = self.validation.score(self._model(), images, self.budget)
        if scored.is_best and (best := self.validation.best):
            self._publish(best)
            self.folder.update_facts(best=facts.of_best(best))
        spent = time.monotonic() - started
        self._started += spent
        self.position.evaluation_seconds += spent
        self.trackers.log({f"held-out/{scored.score.metric}": scored.score.value}, images)
        self.listener.on_score(scored)

    def _evaluate_at_the_end(self) -> None:
        scored = self.validation is None or self.validation.has_scored(self.position.images)
        if not scored and self.engine.weights_are_finite():
            self._evaluate()

    def _publish(self, best: Best) -> None:
        """Let the model folder hold the best model; it may hold one from a future that a kill has undone."""
        family = copy.deepcopy(self._family())
        family.load_state_dict(best.weights)
        model = Model(family, best.facts)
        there = self.folder.model
        if not (publication.holds(there, model) and publication.is_scored(there, model)):
            samples = publication.grid(model, self.config, self.shown)
            publication.publish(there, model, samples, [best.score])

    def _lines(self) -> list[AppendedLines]:
        return [self.log, self.timing, *([self.validation.lines] if self.validation else [])]

    def _stall(self) -> str | None:
        return self.validation.stall() if self.validation else None

    def _family(self) -> Family:
        """The moving average, where it samples images."""
        family = self.engine.ema.learner
        assert isinstance(family, Family)
        return family

    def _model(self) -> Model:
        return Model(self._family(), self._trained())

    def _trained(self) -> dict[str, Any]:
        """What is known of the training so far, for the model folder."""
        trained = {
            "images": self.position.images,
            "seconds": round(self.position.seconds, 1),
            "precision": self.engine.precision,
            "seed": self.config.seed,
            "data": facts.of_training(self.dataset, self.config, self.held),
        }
        if self.stage.tokenized:
            trained["tokenizer"] = facts.of_first_stage(self.stage.tokenized.facts)
        return trained

    def _count_costs(self) -> None:
        if self.energy is not None:
            self.position.energy_joules += self.energy.spent()
        peak = machine.peak_memory(self.device) or 0
        self.position.peak_memory_bytes = max(self.position.peak_memory_bytes, peak)

    def _alarm(self, alarm: Alarm) -> None:
        text = self._told(alarm.text)
        fact = {"images": self.position.images, "kind": alarm.kind, "text": text}
        self.folder.update_facts(alarms=[*self.folder.facts().get("alarms", []), fact])
        self.listener.on_alarm(text)

    def _told(self, text: str) -> str:
        """A sentence that names settings, with where they are found."""
        return f"{text} {self.stage.settings}".rstrip()

    def _close(self, status: str, reason: str | None = None) -> None:
        for lines in self._lines():
            lines.close()
        self._count_costs()
        cores = machine.cores_used(self.device)
        cost = facts.of_cost(vars(self.position), cores, self.energy is not None)
        if self.stage.tokenized:
            cost = facts.of_both(self.stage.tokenized.facts["cost"], cost)
        progress = self.position.facts()
        self.folder.update_facts(status=status, reason=reason, progress=progress, cost=cost)
        best = self.validation.best if self.validation else None
        summary = {"images": progress["images"], "seconds": progress["seconds"]}
        summary |= {name: value for name, value in cost.items() if value is not None}
        summary |= {f"best/{best.score.metric}": best.score.value, "best/images": best.images} if best else {}
        self.trackers.finish(status, summary, self.folder.model)
        report.write(self.folder.path)

    def _write_facts(self, plan: Plan, earlier: Mapping[str, Any]) -> None:
        family = self.engine.learner
        self.folder.update_facts(
            version=__version__,
            status="running",
            reason=None,
            patience_images=self.config.evaluation.patience_images,
            data=facts.of_data(self.dataset, self.config, self.held),
            hardware=machine.hardware(self.device),
            plan=facts.of_plan(plan),
            **({"tokenizer": self.stage.tokenized.facts} if self.stage.tokenized else {}),
            **({"reconstructs": True} if isinstance(family, Family) and not family.has_prior else {}),
            **({"prompts": shown} if (shown := publication.prompts(self.config)) else {}),
            progress=self.position.facts(),
            alarms=earlier.get("alarms", []),
        )

    def _progress(self, total: int) -> Progress:
        position = self.position
        left = (total - position.images) * position.seconds / max(position.images, 1)
        return Progress(
            position.images, total, position.seconds, max(left, 0.0), self._logged, self.stage.name
        )

    def _batches(self) -> Batches:
        options = batch_options(self.config, self.device)
        if self.stage.tokenized:
            return CodedBatches(self.dataset, self.stage.tokenized.codes, **options)
        options["augment"] = augmentation(self.config, self.dataset)
        if not self.config.model.noise_chooses_images:
            return Batches(self.dataset, **options)
        started, file = time.monotonic(), self.folder.transport_file
        begun = self.folder.has_checkpoints
        batches = pairing.open_batches(self.dataset, file, self.listener, is_begun=begun, **options)
        self.position.seconds = time.monotonic() - started  # the budget pays for it
        return batches
