"""The run: from its first step, or its last checkpoint, to the model folder and the report."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import torch

from danqing.cluster.launch import report_progress
from danqing.cluster.ledger import Activity, Ledger
from danqing.cluster.world import waited, world
from danqing.data import Batches, Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.families.base import Alarm
from danqing.nets.recomputing import recompute_blocks
from danqing.precision import Precision
from danqing.training import adapting, captions, checkpoint, facts, privacy, transfer
from danqing.training.config import RunConfig
from danqing.training.costs import CostMeter
from danqing.training.engine import Engine
from danqing.training.following import Lead
from danqing.training.grains import grains_of
from danqing.training.interruption import Interruption
from danqing.training.listener import Listener, Progress
from danqing.training.position import Position
from danqing.training.private_gradients import Noise
from danqing.training.publication import Publisher
from danqing.training.records import Records
from danqing.training.report import document as report
from danqing.training.requirements import Requirements, Together, estimate_requirements
from danqing.training.run_batches import Material, open_batches
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import total_images
from danqing.training.scoring import Scoring
from danqing.training.session import Session
from danqing.training.showing import Showing
from danqing.training.snapshots import SnapshotFolder
from danqing.training.stage import Stage


class Trainer:
    """Trains in one run folder and owns what is written there.

    config: completed with `for_data`.
    folder: exists and is locked.
    held: if images are held out, those to score on; `dataset` is then the rest.
    track: a service to log to besides TensorBoard.
    stage: if the run has two stages, which of them this is.
    ledger: counts what the seconds of this process are spent on; by default, nothing is written.
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
        ledger: Ledger | None = None,
    ) -> None:
        self.session = Session(config, dataset, folder, device, listener, held=held, stage=stage)
        self.config, self.folder, self.listener = config, folder, listener
        self.budget = self.session.budget
        self.tokenizer = stage.tokenized.tokenizer if stage.tokenized else None
        self.interruption = Interruption()
        self._lead, here = Lead(), world()
        self._writer = checkpoint.Writer(folder.checkpoints, here.rank, here.size, report_progress)
        self._ledger = ledger or Ledger(None, time.time())
        self._costs, self._track = CostMeter(device), track
        self._noise: Noise | None = None
        if config.private is not None:
            self._noise = privacy.open_noise(folder, config, begun=folder.has_checkpoints)
        self._batches = self._open_batches()
        self._started = 0.0

    @property
    def position(self) -> Position:
        """Return what the run has seen and used so far."""
        return self.session.position

    @property
    def engine(self) -> Engine:
        """Return the learner and what moves it."""
        return self.session.engine

    def run(self) -> str:
        """Train until the budget is spent or the user stops the run.

        Returns "finished" or "interrupted". Raises TrainingError if the loss is not finite again after a
        rollback, and if a file cannot be written.
        """
        self._prepare()
        try:
            with self.interruption.handling_signals():
                with self._ledger.spending("useful"):
                    status = self._train()
                if status == "finished":
                    self._evaluate_at_the_end()
        except BaseException as error:
            self._writer.stop()
            at_once = isinstance(error, KeyboardInterrupt)  # the second Ctrl-C
            reason = None if at_once else str(error) or type(error).__name__
            with contextlib.suppress(OSError):  # the disk may be what failed; `error` matters more
                self._close("interrupted" if at_once else "failed", reason)
            raise
        if status == "finished" and self.engine.meter.sums:  # minutes may end between two log lines
            self.records.write_line(self.budget.total(self.position.images))
        self._save_checkpoint()
        with self._ledger.spending("checkpoint"):
            self._await_checkpoint()
        with self._ledger.spending("samples"):
            if self._lead.finds_finite(self.engine):
                with self._lead.whole_averages(self.engine):
                    if self.showing.shown_at != self.position.images:
                        self.showing.show_latest()
                    if status == "finished":
                        self.showing.examine()
        spent = self.position.images >= self.budget.total(self.position.images)
        self._ledger.switch("end")
        self._close(status, self.scoring.stall() if status == "finished" and not spent else None)
        return status

    def _train(self) -> str:
        self._started = time.monotonic() - self.position.seconds
        last_saved = time.monotonic()
        while self.position.images < self.budget.total(self.position.images) and not self.scoring.stall():
            if self.interruption.requested:
                return "interrupted"
            self._step()
            self._writer.check()
            is_due = time.monotonic() - last_saved > self.config.training.checkpoint_seconds
            if is_due and not self._writer.is_writing:
                self._save_checkpoint()
                last_saved = time.monotonic()
        return "finished"

    def _step(self) -> None:
        session, position, engine = self.session, self.position, self.engine
        total, log_every = self.budget.total(position.images), self.config.training.log_every_steps
        begins = session.begins
        arguments = position.images, position.step, total, position.learning_rate_scale, begins
        waits = self._waits()
        self._lead.step(*arguments)
        broken = engine.step(*arguments)
        for (activity, before), (_, now) in zip(waits, self._waits(), strict=True):
            self._ledger.move(activity, now - before)
        if engine.micro_batch < position.micro_batch:
            self._note_smaller_parts()
        watched = session.device.type == "cpu" or position.step % log_every == 0
        if watched and not bool(torch.isfinite(broken)):
            self._roll_back()
            return
        before = position.images
        position.images += engine.images_per_step
        position.step += 1
        position.seconds = time.monotonic() - self._started
        self._ledger.reached(position.images)
        if position.step % log_every == 0 or position.images >= total:
            self.records.write_line(total)
        minutes, step_images = self.config.minutes, engine.images_per_step
        if minutes is not None:
            self.budget.replan(
                minutes * 60, position.seconds, position.images, step_images, self.pace, self._most_images
            )
        if len(session.begins) > len(begins) and position.images < self.budget.total(position.images):
            self._announce_size(len(begins))
        grids = self.config.training.sample_grids
        grid_is_due = before * grids // total < min(position.images, total) * grids // total
        has_snapshots = bool(self.config.training.ema_lengths)
        snapshot_is_due = has_snapshots and self.snapshots.is_due(position.images)
        if (grid_is_due or snapshot_is_due) and not self._lead.finds_finite(engine):
            self._roll_back()  # the loss can be finite and its gradient not
            return
        if snapshot_is_due:
            with self._ledger.spending("checkpoint"), self._lead.whole_averages(engine):
                self.snapshots.take(position.images, engine.averaged())
        if grid_is_due:
            with self._ledger.spending("samples"), self._lead.whole_averages(engine):
                self.showing.show_latest(in_brief=position.images < total)
        if self.scoring.is_due(before):
            self._evaluate()
        self.listener.on_progress(self._progress(total))

    def _waits(self) -> list[tuple[Activity, float]]:
        """Return for how long steps have waited so far."""
        return [("data", self.engine.data_seconds), ("ranks", waited())]

    def _evaluate(self) -> None:
        """Score the moving average; the time that it takes does not count towards the budget."""
        if not self._lead.finds_finite(self.engine):
            self._roll_back()
            return
        with self._ledger.spending("evaluation"), self._lead.whole_averages(self.engine):
            scored, seconds = self.scoring.score()
        self._started += seconds
        values = {f"held-out/{scored.score.metric}": scored.score.value}
        self.records.trackers.log(values, self.position.images)
        self.listener.on_score(scored)

    def _evaluate_at_the_end(self) -> None:
        scoring = self.scoring
        if not scoring.has_scored_all() and self._lead.finds_finite(self.engine):
            self._evaluate()
        if scoring.compares_lengths and not scoring.stall() and self._lead.finds_finite(self.engine):
            with self._ledger.spending("evaluation"), self._lead.whole_averages(self.engine):
                scoring.score_lengths(self.snapshots, self.interruption)

    def _prepare(self) -> None:
        """Restore the last checkpoint or begin, and estimate what the run needs."""
        session, stage = self.session, self.session.stage
        self._ledger.switch("start")
        earlier = self.folder.facts()
        found = checkpoint.read_latest(self.folder.checkpoints)
        if not stage.tokenized:  # else the first stage has read them
            captions.read(self.config.model, session.dataset, self.listener)
        needs = self._requirements(earlier)
        self.pace = needs.pace
        is_new = found is None and self.config.init and self.config.adapter is None
        start = self._carried() if is_new else None
        if self._noise is not None and found is not None:
            session.mechanism = privacy.Mechanism.read(self.folder)
        session.engine = self._begin_engines(needs.precision, needs.checkpointing, start)
        self.engine.micro_batch = self.position.micro_batch = needs.micro_batch
        if self.config.adapter is not None:
            told = adapting.facts(self.engine.learner, self.config, earlier.get("init", {}) if found else {})
            self.folder.update_facts(init=told)
            self.listener.on_message(told["text"])
        self.records = Records(session, self._costs, self._track)
        publisher = Publisher(self.folder, self.config, session.dataset, session.held)
        self.snapshots = SnapshotFolder(self.folder.snapshots, self.engine.images_per_step)
        self.scoring = Scoring(session, publisher)
        self.showing = Showing(session, publisher, self.records, self.scoring)
        self._restore_or_clear(found)
        self._lead.load(self.engine, found[0] if found else None)
        if self._together():
            self.listener.on_message(self.engine.parts_in_words())
        self.position.evaluation_seconds += self.scoring.opening_seconds
        self._ledger.begin(self.position.images, session.stage.name)
        self.records.start(earlier)
        grid_seconds = earlier.get("plan", {}).get("grid_seconds", 0.0)
        if found is None:
            with self._lead.whole_averages(self.engine):
                grid_seconds = self.showing.show_first()
        self._settle_budget(grid_seconds)
        self._add_noise()
        plan = needs.plan(
            self.budget.total(self.position.images),
            session.device,
            seen=self.position.images,
            grid_seconds=grid_seconds,
            stage=stage.name,
            then=stage.then,
        )
        self.folder.update_facts(plan=facts.of_plan(plan))
        if found is None:
            self._save_checkpoint()  # last, so that a run that resumes from it has all of the above
            self._await_checkpoint()
        self.listener.on_plan(plan)

    def _begin_engines(
        self, precision: Precision, recomputes: bool, start: transfer.Carried | None = None
    ) -> Engine:
        """Return a new engine, and let other processes build theirs."""
        session, tokenized = self.session, self.session.stage.tokenized
        codes = tokenized.codes if tokenized else None
        self._lead.begin(self.config, self.folder, codes, precision, recomputes)
        grains = grains_of(self.config)
        engine = Engine(self.config, self._batches, session.device, precision, self.tokenizer, start, grains)
        recompute_blocks(engine.learner, recomputes)
        return engine

    def _carried(self) -> transfer.Carried:
        """Return the weights that a new run starts from, and say which these are."""
        source = transfer.Source(self.config.init)
        carried = transfer.carry(source, self.config.model)
        facts = carried.facts(source)
        self.folder.update_facts(init=facts)
        self.listener.on_message(facts["text"])
        session = self.session
        if session.held is not None and source.may_have_seen(session.held.judged, session.dataset):
            self.listener.on_message(
                f"{self.config.init} was trained on {session.dataset.info.name} too, perhaps on images that "
                "are held out here, so scores may be too good."
            )
        return carried

    def _requirements(self, earlier: Mapping[str, Any]) -> Requirements:
        # A run keeps the number format that it began with, even if another would be faster today.
        plan = earlier.get("plan", {})
        precision = plan.get("precision", self.config.training.precision)
        try:
            needs = estimate_requirements(
                self.config,
                self._batches,
                self.session.device,
                precision,
                self.tokenizer,
                earlier=plan,
                together=self._together(),
            )
        except TrainingError as error:
            raise TrainingError(self.session.with_hint(str(error))) from error
        if needs.micro_batch < plan.get("micro_batch", 0):
            self.listener.on_message(
                f"Less memory is free than when this run began: it continues with {needs.micro_batch} images "
                f"at once instead of {plan['micro_batch']}, which changes its result."
            )
        return needs

    def _together(self) -> Together | None:
        """Return how all processes measure steps; None if this one does so alone."""
        if world().size == 1 or self.config.training.shard != "parameters":
            return None
        return Together(self._begin_engines, self._lead.step)

    def _restore_or_clear(self, found: checkpoint.Found | None) -> None:
        if found is None:
            self.records.cut({"log_bytes": 0, "timing_bytes": 0})
            self.scoring.clear()
            self.snapshots.keep_until(0)
            return
        with self.folder.readable():
            self._restore(*found)

    def _restore(
        self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any], complaints: list[str]
    ) -> None:
        for complaint in complaints:
            self.listener.on_message(complaint)
        self.session.position = Position(**state["position"])
        self.engine.micro_batch = self.position.micro_batch = min(
            self.engine.micro_batch, self.position.micro_batch or self.engine.micro_batch
        )
        self.engine.load_tensors(tensors, state["meter_counts"])
        self.records.cut(state)
        self.snapshots.keep_until(self.position.images)
        self.scoring.restore(tensors, state)

    def _save_checkpoint(self) -> None:
        """Copy the state; it is written while the run goes on."""
        with self._ledger.spending("checkpoint"):
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        if not self._lead.finds_finite(self.engine):
            return  # the next step rolls back, to the last good checkpoint
        self.records.count_costs()
        own = self.engine.own()
        state = {
            "position": vars(self.position),
            "meter_counts": self.engine.meter.counts,
            **self.records.lengths(),
        }
        self.scoring.save(own, state)
        progress = self.position.facts()

        def before() -> None:
            self.records.sync()
            self.scoring.sync()
            self.folder.update_facts(progress=progress)

        self._await_checkpoint()  # the others must not begin another one in a folder that is being published
        self._lead.save(self.position.images)
        self._writer.begin(self.position.images, self.engine.shared(), state, before, own=own)

    def _await_checkpoint(self) -> None:
        """Wait until all processes have written the last checkpoint; raise TrainingError if one cannot."""
        try:
            self._lead.written()
        except BaseException:
            self._writer.stop()
            raise
        self._writer.wait()

    def _roll_back(self) -> None:
        """Return to the last good checkpoint with half the learning rate; give up the second time."""
        if self._noise is not None:  # the same noise around other gradients would show their difference
            text = (
                "The weights of this private run are no longer finite: lower optimizer.learning_rate, and "
                "use another --out and another --seed."
            )
            raise TrainingError(self.session.with_hint(text))
        if self.position.rollbacks:
            text = (
                f"The loss was not finite after {self.position.images} images, twice: lower "
                "optimizer.learning_rate, set training.clip_norm=1, or set training.precision=float32."
            )
            raise TrainingError(self.session.with_hint(text))
        self._await_checkpoint()
        found = checkpoint.read_latest(self.folder.checkpoints)
        if found is None:
            text = "The loss was not finite before the first checkpoint: lower optimizer.learning_rate."
            raise TrainingError(self.session.with_hint(text))
        broken = self.position
        self._restore(*found)
        self._ledger.reached(self.position.images)
        self._lead.load(self.engine, found[0])
        for spent in ("seconds", "evaluation_seconds", "energy_joules", "peak_memory_bytes"):
            setattr(self.position, spent, getattr(broken, spent))
        self.position.rollbacks = 1
        self.position.learning_rate_scale *= 0.5
        self._save_checkpoint()
        text = (
            f"The loss was not finite after {broken.images} images: training returned to "
            f"{self.position.images} and continues with half of optimizer.learning_rate."
        )
        self.session.raise_alarms([Alarm("rollback", text)])

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
        if config.private is not None:
            total = self._within_privacy(total)
        self.budget.begin(self.position.images, total, self.engine.images_per_step)
        self.folder.update_facts(budget=requested)

    def _within_privacy(self, total: int) -> int:
        """Return the images of a private run, which are settled once: its noise suits their number."""
        session, step = self.session, self.engine.images_per_step
        if session.mechanism is None:
            session.mechanism = privacy.Mechanism.settle(
                self.config, len(session.dataset), self.engine.phases, -(-total // step)
            )
            session.mechanism.write(self.folder)
        most: int = session.mechanism.most_steps * step
        if total > most:
            self.listener.on_message(
                f"The noise of this private run was chosen for {most:,} images, and it ends there: for more, "
                "choose another --out."
            )
        return min(total, most)

    @property
    def _most_images(self) -> int | None:
        """Return after how many images a private run has spent its privacy."""
        mechanism = self.session.mechanism
        return None if mechanism is None else mechanism.most_steps * self.engine.images_per_step

    def _add_noise(self) -> None:
        """Give the engine of a private run its noise, and say what the run guarantees."""
        mechanism, private = self.session.mechanism, self.engine.private
        if self._noise is None or mechanism is None or private is None:
            return
        private.noise = self._noise._replace(multiplier=mechanism.noise_multiplier)
        self.listener.on_message(privacy.announcement(self.config, mechanism, len(self.session.dataset)))

    def _announce_size(self, number: int) -> None:
        """Say which size the images have from now on."""
        halvings, whole = self.config.model.grow_levels[number], self.session.dataset.size
        width, height = (-(-side // 2**halvings) for side in whole)
        self.listener.on_message(f"From {self.position.images:,} images on, images are {width}x{height}.")

    def _note_smaller_parts(self) -> None:
        self.position.micro_batch = self.engine.micro_batch
        self.listener.on_message(
            f"Memory ran out after {self.position.images:,} images: training continues with "
            f"{self.engine.micro_batch} images at once (training.micro_batch)."
        )

    def _progress(self, total: int) -> Progress:
        images, seconds = self.position.images, self.position.seconds
        left = self.pace.seconds_left(seconds, images, self.budget.totals)
        return Progress(images, total, seconds, left, self.records.latest, self.session.stage.name)

    def _close(self, status: str, reason: str | None = None) -> None:
        self.records.close(status, reason, self.scoring.validation)
        self._ledger.close(status)
        if told := self._ledger.summary():
            self.folder.update_facts(goodput=told)
        report.write(self.folder.path)

    def _open_batches(self) -> Batches:
        session, tokenized = self.session, self.session.stage.tokenized
        codes = None if tokenized is None else tokenized.codes
        material = Material(self.config, session.dataset, session.held, codes, self.folder, session.device)
        started, is_begun = time.monotonic(), self.folder.has_checkpoints
        batches = open_batches(material, self.listener, is_begun=is_begun, noise=self._noise)
        if material.is_prepared_first:
            self.position.seconds = time.monotonic() - started  # the budget pays for it
        return batches
