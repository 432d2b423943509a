"""The run: from its first step, or its last checkpoint, to the model folder and the report."""

import contextlib
import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danqing import machine
from danqing.data import Batches, Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.families.abilities import Translates
from danqing.families.base import Alarm, Family
from danqing.model.model import Model
from danqing.nets.recomputing import recompute_blocks
from danqing.training import captions, checkpoint, facts, pairing, publication
from danqing.training.codes import CodedBatches, augmentation, batch_options
from danqing.training.config import RunConfig
from danqing.training.costs import CostMeter, total_cost
from danqing.training.ema_choice import score_lengths
from danqing.training.engine import Engine
from danqing.training.growth import Growth
from danqing.training.guard import Guard
from danqing.training.interruption import Interruption
from danqing.training.json_lines import AppendedLines
from danqing.training.listener import Listener, Progress
from danqing.training.position import Position
from danqing.training.publication import Publisher
from danqing.training.report import document as report
from danqing.training.requirements import Requirements, estimate_requirements
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import Budget, total_images
from danqing.training.snapshots import Snapshot, SnapshotFolder, open_snapshots
from danqing.training.stage import Stage
from danqing.training.trackers import open_trackers
from danqing.training.validation import Best, Validation
from danqing.version import __version__


class Trainer:
    """Trains in one run folder and owns what is written there.

    config: completed with `for_data`.
    folder: exists and is locked.
    held: if images are held out, those to score on; `dataset` is then the rest.
    track: a service to log to besides TensorBoard.
    stage: if the run has two stages, which of them this is.
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
        self.growth = Growth.of(config)
        self.interruption = Interruption()
        self.validation: Validation | None = None
        self.costs = CostMeter(device)
        self.batches = self._batches()
        self._started = 0.0
        self._logged: Mapping[str, float] = {}
        self._published_at = -1

    def run(self) -> str:
        """Train until the budget is spent or the user stops the run.

        Returns "finished" or "interrupted". Raises TrainingError if the loss is not finite again after a
        rollback, and if a file cannot be written.
        """
        self._prepare()
        try:
            with self.interruption.handling_signals():
                status = self._train()
                if status == "finished":
                    self._evaluate_at_the_end()
        except BaseException as error:
            at_once = isinstance(error, KeyboardInterrupt)  # the second Ctrl-C
            reason = None if at_once else str(error) or type(error).__name__
            with contextlib.suppress(OSError):  # the disk may be what failed; `error` matters more
                self._close("interrupted" if at_once else "failed", reason)
            raise
        if status == "finished" and self.engine.meter.sums:  # minutes may end between two log lines
            self._log(self.budget.total(self.position.images))
        self._save_checkpoint()
        if self._published_at != self.position.images and self.engine.weights_are_finite():
            self._publish_latest()
        spent = self.position.images >= self.budget.total(self.position.images)
        self._close(status, self._stall() if status == "finished" and not spent else None)
        return status

    def _train(self) -> str:
        self._started = time.monotonic() - self.position.seconds
        last_saved = time.monotonic()
        while self.position.images < self.budget.total(self.position.images) and not self._stall():
            if self.interruption.requested:
                return "interrupted"
            self._step()
            if time.monotonic() - last_saved > self.config.training.checkpoint_seconds:
                self._save_checkpoint()
                last_saved = time.monotonic()
        return "finished"

    def _step(self) -> None:
        position, engine = self.position, self.engine
        total = self.budget.total(position.images)
        begins = self._begins()
        broken = engine.step(position.images, position.step, total, position.learning_rate_scale, begins)
        if engine.micro_batch < position.micro_batch:
            self._note_smaller_parts()
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
            self.budget.replan(minutes * 60, position.seconds, position.images, step_images, self.pace)
        if len(self._begins()) > len(begins) and position.images < self.budget.total(position.images):
            self._announce_size(len(begins))
        grids = self.config.training.sample_grids
        grid_is_due = before * grids // total < min(position.images, total) * grids // total
        snapshot_is_due = self._lengths and self.snapshots.is_due(position.images)
        if (grid_is_due or snapshot_is_due) and not engine.weights_are_finite():
            self._roll_back()  # the loss can be finite and its gradient not
            return
        if snapshot_is_due:
            self.snapshots.take(position.images, engine.averaged())
        if grid_is_due:
            self._publish_latest(in_brief=position.images < total)
        if self.validation and self.validation.is_due(before, position.images, self.budget):
            self._evaluate()
        self.listener.on_progress(self._progress(total))

    def _prepare(self) -> None:
        """Restore the last checkpoint or begin, and estimate what the run needs."""
        earlier = self.folder.facts()
        found = checkpoint.read_latest(self.folder.checkpoints)
        if not self.stage.tokenized:  # else the first stage has read them
            captions.read(self.config.model, self.dataset, self.listener)
        needs = self._requirements(earlier)
        self.pace = needs.pace
        self.engine = Engine(self.config, self.batches, self.device, needs.precision, self.tokenizer)
        self.engine.micro_batch = self.position.micro_batch = needs.micro_batch
        recompute_blocks(self.engine.learner, needs.checkpointing)
        self.log, self.timing = AppendedLines(self.folder.log_file), AppendedLines(self.folder.timing_file)
        self.publisher = Publisher(self.folder, self.config, self.dataset, self.held)
        self.snapshots = SnapshotFolder(self.folder.snapshots, self.engine.images_per_step)
        opening = self._open_validation()
        self._restore_or_clear(found)
        self.position.evaluation_seconds += opening
        self._start_watching(earlier)
        self._write_facts(earlier)
        grid_seconds = (
            self._publish_first() if found is None else earlier.get("plan", {}).get("grid_seconds", 0.0)
        )
        self._settle_budget(grid_seconds)
        position, stage = self.position, self.stage
        plan = needs.plan(
            self.budget.total(position.images),
            self.device,
            seen=position.images,
            grid_seconds=grid_seconds,
            stage=stage.name,
            then=stage.then,
        )
        self.folder.update_facts(plan=facts.of_plan(plan))
        if found is None:
            self._save_checkpoint()  # last, so that a run that resumes from it has all of the above
        self.listener.on_plan(plan)

    def _publish_first(self) -> float:
        """Write the grid of real images and that of an untrained model; returns the seconds of the latter."""
        self.publisher.write_real()
        started = time.monotonic()
        self._publish_latest(in_brief=True)
        return time.monotonic() - started

    def _requirements(self, earlier: Mapping[str, Any]) -> Requirements:
        # A run keeps the number format that it began with, even if another would be faster today.
        plan = earlier.get("plan", {})
        precision = plan.get("precision", self.config.training.precision)
        try:
            needs = estimate_requirements(
                self.config, self.batches, self.device, precision, self.tokenizer, earlier=plan
            )
        except TrainingError as error:
            raise TrainingError(self._with_hint(str(error))) from error
        if needs.micro_batch < plan.get("micro_batch", 0):
            self.listener.on_message(
                f"Less memory is free than when this run began: it continues with {needs.micro_batch} images "
                f"at once instead of {plan['micro_batch']}, which changes its result."
            )
        return needs

    def _open_validation(self) -> float:
        """Prepare the scoring of held-out images, if there are any; returns the seconds that it took."""
        if self.held is None or not self.config.evaluation.every_images:
            return 0.0
        started = time.monotonic()
        lines = AppendedLines(self.folder.scores_file)
        self.validation = Validation(self.config, self.held, lines, self.device, self.listener.on_data)
        return time.monotonic() - started

    def _restore_or_clear(self, found: checkpoint.Found | None) -> None:
        if found is None:
            for lines in self._lines():
                lines.cut(0)
            self.snapshots.keep_until(0)
            return
        with self.folder.readable():
            self._restore(*found)

    def _start_watching(self, earlier: Mapping[str, Any]) -> None:
        """Start the guard and the trackers, which continue from the restored log and position."""
        raised = [alarm.get("kind", "") for alarm in earlier.get("alarms", [])]
        self.guard = Guard(self.engine.learner, raised, self.log.read())
        values = self.config.model_dump(mode="json")
        say = self.listener.on_message
        self.trackers = open_trackers(self.track, self.folder, values, self.position.images, say)

    def _restore(
        self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any], complaints: list[str]
    ) -> None:
        for complaint in complaints:
            self.listener.on_message(complaint)
        self.position = Position(**state["position"])
        self.engine.micro_batch = self.position.micro_batch = min(
            self.engine.micro_batch, self.position.micro_batch or self.engine.micro_batch
        )
        self.engine.load_tensors(tensors, state["meter_counts"])
        self.log.cut(state["log_bytes"])
        self.timing.cut(state["timing_bytes"])
        self.snapshots.keep_until(self.position.images)
        if self.validation:
            self.validation.restore(tensors, state["validation"])
            best = self.validation.best
            if best is not None:
                self._publish_best(best)
            self.folder.update_facts(best=facts.of_best(best) if best else None)

    def _save_checkpoint(self) -> None:
        if not self.engine.weights_are_finite():
            return  # the next step rolls back, to the last good checkpoint
        self.costs.count(self.position)
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
        """Return to the last good checkpoint with half the learning rate; give up the second time."""
        if self.position.rollbacks:
            text = (
                f"The loss was not finite after {self.position.images} images, twice: lower "
                "optimizer.learning_rate, set training.clip_norm=1, or set training.precision=float32."
            )
            raise TrainingError(self._with_hint(text))
        found = checkpoint.read_latest(self.folder.checkpoints)
        if found is None:
            text = "The loss was not finite before the first checkpoint: lower optimizer.learning_rate."
            raise TrainingError(self._with_hint(text))
        broken = self.position
        self._restore(*found)
        for spent in ("seconds", "evaluation_seconds", "energy_joules", "peak_memory_bytes"):
            setattr(self.position, spent, getattr(broken, spent))
        self.position.rollbacks = 1
        self.position.learning_rate_scale *= 0.5
        self._save_checkpoint()
        text = (
            f"The loss was not finite after {broken.images} images: training returned to "
            f"{self.position.images} and continues with half of optimizer.learning_rate."
        )
        self._raise_alarms([Alarm("rollback", text)])

    def _settle_budget(self, grid_seconds: float) -> None:
        """Give a new run its budget, and a resumed run what a larger budget adds.

        grid_seconds: what each grid of samples takes of a budget in minutes.
        """
        requested = {"images": self.config.images, "minutes": self.config.minutes}
        if self.budget.entries and self.folder.facts().get("budget") == requested:
            return
        config = self.config
        if config.minutes is not None:
            pauses = min(config.training.sample_grids * grid_seconds / 60, config.minutes / 2)
            config = config.model_copy(update={"minutes": config.minutes - pauses})
        total = total_images(config, self.position, self.pace, self.budget.totals)
        self.budget.begin(self.position.images, total, self.engine.images_per_step)
        self.folder.update_facts(budget=requested)

    def _log(self, total: int) -> None:
        position = self.position
        rate = self.engine.learning_rate(position.images, total, position.learning_rate_scale)
        logged = {"learning_rate": rate, **self.engine.meter.drain()}
        record = {"images": position.images, "step": position.step, **logged}
        self.log.append(record)
        self.timing.append(position.facts())
        self._logged = record
        self.trackers.log(logged, position.images)
        self.costs.count(position)
        self._raise_alarms(self.guard.on_log(record, self._begins()[-1]))

    def _publish_latest(self, *, in_brief: bool = False) -> None:
        """Write a grid of samples and the model folder, as far as the learner and the scores allow.

        Until there is a score, the latest model is the best. A learner that does not sample has no grid.
        in_brief: sample in few steps, while the model still changes.
        """
        images = self.position.images
        if not in_brief:
            self._published_at = images
        if not isinstance(self.engine.ema.learner, Family):
            publication.publish_learner(self.folder.model, self.engine.ema.learner, self._trained())
            return
        is_best = self.validation is None or self.validation.best is None
        path, samples = self.publisher.write_latest(self._model(), is_best=is_best, in_brief=in_brief)
        self.trackers.picture(path, images)
        self.listener.on_samples(path)
        if images and images * 3 > self.budget.total(images):
            sampled = self.publisher.sampled(samples)
            self._raise_alarms(self.guard.on_samples(sampled, self.publisher.real.array))
            if images * 2 > self.budget.total(images):  # colours settle late, most of all in short runs
                self._raise_alarms(self.guard.on_colours(sampled, self.publisher.real_colours))

    def _evaluate(self) -> None:
        """Score the moving average on held-out images; write the best to the model folder.

        The time that it takes does not count towards the budget.
        """
        assert self.validation is not None
        if not self.engine.weights_are_finite():
            self._roll_back()
            return
        started = time.monotonic()
        images = self.position.images
        scored = self.validation.score(self._model(), images, self.budget)
        if scored.is_best and (best := self.validation.best):
            self._publish_best(best)
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
        keeps_best = self.validation is not None and self.config.evaluation.keep == "best"
        if self._lengths and keeps_best and not self._stall() and self.engine.weights_are_finite():
            self._score_lengths()

    def _score_lengths(self) -> None:
        """Score other EMA lengths of the last weights, and write the best model to the model folder."""
        assert self.validation is not None
        started = time.monotonic()
        latest = Snapshot(self.position.images, self._lengths, self.engine.averaged)
        snapshots, complaints = open_snapshots(self.snapshots.path, latest)
        for complaint in complaints:
            self.listener.on_message(complaint)
        trained = self._trained()
        for scored in score_lengths(self.validation, snapshots, self._family(), trained, self.budget):
            self.listener.on_score(scored)
            if self.interruption.requested:
                break
        if best := self.validation.best:
            self._publish_best(best)
            self.folder.update_facts(best=facts.of_best(best))
        self.position.evaluation_seconds += time.monotonic() - started

    def _publish_best(self, best: Best) -> None:
        family = copy.deepcopy(self._family())
        family.load_state_dict(best.weights)
        self.publisher.write_best(Model(family, best.facts), best.score)

    def _lines(self) -> list[AppendedLines]:
        return [self.log, self.timing, *([self.validation.lines] if self.validation else [])]

    def _stall(self) -> str | None:
        begins = self._begins()
        if self.validation is None or len(begins) < len(self.growth.ends):
            return None  # small images say little about whole ones
        return self.validation.stall(begins[-1])

    def _begins(self) -> tuple[int, ...]:
        """After how many images each size of a run that grows has begun."""
        return self.growth.begins(self.position.images, self.budget.totals)

    def _announce_size(self, number: int) -> None:
        """Say which size the images have from now on."""
        width, height = (-(-side // 2 ** self.config.model.grow_levels[number]) for side in self.dataset.size)
        self.listener.on_message(f"From {self.position.images:,} images on, images are {width}x{height}.")

    @property
    def _lengths(self) -> tuple[float, ...]:
        return self.config.training.ema_lengths

    def _family(self) -> Family:
        """The moving average of a learner that samples images."""
        family = self.engine.ema.learner
        assert isinstance(family, Family)
        return family

    def _model(self) -> Model:
        return Model(self._family(), self._trained())

    def _trained(self) -> dict[str, Any]:
        precision = self.engine.precision
        first = self.stage.tokenized.facts if self.stage.tokenized else None
        trained = facts.of_trained(self.position, precision, self.config, self.dataset, self.held, first)
        return trained | ({"networks": list(self.engine.networks)} if self.engine.networks else {})

    def _raise_alarms(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            text = self._with_hint(alarm.text)
            fact = {"images": self.position.images, "kind": alarm.kind, "text": text}
            self.folder.update_facts(alarms=[*self.folder.facts().get("alarms", []), fact])
            self.listener.on_alarm(text)

    def _with_hint(self, text: str) -> str:
        """A sentence that names settings, and where these are found if that is not obvious."""
        return f"{text} {self.stage.settings}".rstrip()

    def _close(self, status: str, reason: str | None = None) -> None:
        for lines in self._lines():
            lines.close()
        self.costs.count(self.position)
        cost = self.costs.cost(self.position)
        if self.stage.tokenized:
            cost = total_cost(self.stage.tokenized.facts["cost"], cost)
        if self._lengths:
            ema = facts.of_ema(self._lengths[0], self.validation, self.position.images)
            self.folder.update_facts(ema=ema)
            if status == "finished":
                self.listener.on_message(ema["text"])
        progress = self.position.facts()
        self.folder.update_facts(status=status, reason=reason, progress=progress, cost=cost)
        best = self.validation.best if self.validation else None
        summary = {"images": progress["images"], "seconds": progress["seconds"]}
        summary |= {name: value for name, value in cost.items() if value is not None}
        summary |= {f"best/{best.score.metric}": best.score.value, "best/images": best.images} if best else {}
        self.trackers.finish(status, summary, self.folder.model)
        report.write(self.folder.path)

    def _note_smaller_parts(self) -> None:
        self.position.micro_batch = self.engine.micro_batch
        self.listener.on_message(
            f"Memory ran out after {self.position.images:,} images: training continues with "
            f"{self.engine.micro_batch} images at once (training.micro_batch)."
        )

    def _write_facts(self, earlier: Mapping[str, Any]) -> None:
        family = self.engine.learner
        steps = publication.sampling_steps(self._model()) if isinstance(family, Family) else 0
        brief = publication.BRIEF_STEPS
        self.folder.update_facts(
            version=__version__,
            status="running",
            reason=None,
            patience_images=self.config.evaluation.patience_images,
            data=facts.of_data(self.dataset, self.config, self.held),
            hardware=machine.hardware(self.device),
            **({"tokenizer": self.stage.tokenized.facts} if self.stage.tokenized else {}),
            **({"reconstructs": True} if isinstance(family, Family) and not family.has_prior else {}),
            **({"translates": True} if isinstance(family, Translates) else {}),
            **({"unpaired": True} if self.config.model.reads_domains else {}),
            **({"task": self.config.task} if self.config.task else {}),
            **({"grid_steps": [brief, steps]} if steps > brief else {}),
            **({"prompts": shown} if (shown := publication.prompts(self.config)) else {}),
            progress=self.position.facts(),
            alarms=earlier.get("alarms", []),
        )

    def _progress(self, total: int) -> Progress:
        images, seconds = self.position.images, self.position.seconds
        left = self.pace.seconds_left(seconds, images, self.budget.totals)
        return Progress(images, total, seconds, left, self._logged, self.stage.name)

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
