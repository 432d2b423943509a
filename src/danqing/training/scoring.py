"""Scores of a run on held-out images: when they are measured, and the best model in the model folder."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from danqing.nets import adapters
from danqing.training import facts
from danqing.training.ema_choice import score_lengths
from danqing.training.interruption import Interruption
from danqing.training.json_lines import AppendedLines
from danqing.training.listener import Scored
from danqing.training.publication import Publisher
from danqing.training.session import Session
from danqing.training.snapshots import Snapshot, SnapshotFolder, open_snapshots
from danqing.training.validation import Best, Validation


class Scoring:
    """The scores of a run; without held-out images, none.

    validation: what scores; None without held-out images.
    opening_seconds: how long it took to prepare the held-out images.
    """

    def __init__(self, session: Session, publisher: Publisher) -> None:
        self._session, self._publisher = session, publisher
        self.validation: Validation | None = None
        started = time.monotonic()
        if session.held is not None and session.config.evaluation.every_images:
            lines = AppendedLines(session.folder.scores_file)
            self.validation = Validation(
                session.config, session.held, lines, session.device, session.listener.on_data
            )
        self.opening_seconds = time.monotonic() - started if self.validation else 0.0

    @property
    def best(self) -> Best | None:
        """Return the model with the best score so far."""
        return self.validation.best if self.validation else None

    @property
    def compares_lengths(self) -> bool:
        """Return whether other EMA lengths are scored at the end of the run."""
        config = self._session.config
        keeps_best = self.validation is not None and config.evaluation.keep == "best"
        return keeps_best and bool(config.training.ema_lengths)

    def is_due(self, before: int) -> bool:
        """Return whether the last step, which began after `before` images, crossed a point of scoring."""
        session = self._session
        return self.validation is not None and self.validation.is_due(
            before, session.position.images, session.budget
        )

    def has_scored_all(self) -> bool:
        """Return whether nothing is left to score at the end of the run."""
        return self.validation is None or self.validation.has_scored(self._session.position.images)

    def stall(self) -> str | None:
        """Return why the run ends early, or None."""
        session = self._session
        if self.validation is None or len(session.begins) < len(session.growth.ends):
            return None  # small images say little about whole ones
        return self.validation.stall(session.begins[-1])

    def score(self) -> tuple[Scored, float]:
        """Score the moving average; write the best model to the model folder.

        Returns the score and the seconds that it took, which do not count towards the budget.
        """
        assert self.validation is not None
        session, started = self._session, time.monotonic()
        scored = self.validation.score(
            session.learner, session.trained(), session.position.images, session.budget
        )
        if scored.is_best:
            self._publish_best()
        spent = time.monotonic() - started
        session.position.evaluation_seconds += spent
        return scored, spent

    def score_lengths(self, snapshots: SnapshotFolder, interruption: Interruption) -> None:
        """Score other EMA lengths of the last weights; write the best model to the model folder."""
        assert self.validation is not None
        session, started = self._session, time.monotonic()
        lengths, images = session.config.training.ema_lengths, session.position.images
        found, complaints = open_snapshots(snapshots.path, Snapshot(images, lengths, session.engine.averaged))
        for complaint in complaints:
            session.listener.on_message(complaint)
        trained = session.trained()
        for scored in score_lengths(self.validation, found, session.learner, trained, session.budget):
            session.listener.on_score(scored)
            if interruption.requested:
                break
        self._publish_best()
        session.position.evaluation_seconds += time.monotonic() - started

    def clear(self) -> None:
        """Remove the scores that a run left which died before its first checkpoint."""
        if self.validation:
            self.validation.lines.cut(0)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Add what a checkpoint must hold of the scores."""
        if self.validation:
            tensors |= self.validation.tensors()
            state["validation"] = self.validation.state()

    def sync(self) -> None:
        """Make the scores durable; another thread may call it."""
        if self.validation:
            self.validation.lines.sync()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `save` added, and the best model in the model folder."""
        if self.validation:
            self.validation.restore(tensors, state["validation"])
            if not self._publish_best():
                self._session.folder.update_facts(best=None)

    def _publish_best(self) -> bool:
        """Write the best model to the model folder, if there is one."""
        best = self.best
        if best is None:
            return False
        learner = adapters.copied(self._session.learner)
        learner.load_state_dict(best.weights, strict=not adapters.is_adapted(learner))
        self._publisher.write_best(learner, best.facts, best.score)
        self._session.folder.update_facts(best=facts.of_best(best))
        return True
