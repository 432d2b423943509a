"""What a run shows of its latest model: sample grids, the model folder, and alarms about the samples."""

import copy
import time

from danqing.evaluation.learner_scores import examine_learner
from danqing.families.base import Family
from danqing.training import publication
from danqing.training.judging import judged_by_recognition, reference_of
from danqing.training.publication import Publisher
from danqing.training.records import Records
from danqing.training.scoring import Scoring
from danqing.training.session import Session


class Showing:
    """Shows the latest model of a run.

    shown_at: after how many images it was shown last, with all steps of sampling; -1 is never.
    """

    def __init__(self, session: Session, publisher: Publisher, records: Records, scoring: Scoring) -> None:
        self._session, self._publisher = session, publisher
        self._records, self._scoring = records, scoring
        self.shown_at = -1

    def show_first(self) -> float:
        """Write the grid of real images and that of an untrained model; returns the seconds of the latter."""
        if self._session.config.private is None:
            self._publisher.write_real()
        started = time.monotonic()
        self.show_latest(in_brief=self._session.config.adapter is None)  # a base is shown as it is
        return time.monotonic() - started

    def show_latest(self, *, in_brief: bool = False) -> None:
        """Write a grid of samples and the model folder, as far as the learner and the scores allow.

        Until there is a score, the latest model is the best. A learner that does not sample has no grid.
        in_brief: sample in few steps, while the model still changes.
        """
        session = self._session
        images, total = session.position.images, session.budget.total
        if not in_brief:
            self.shown_at = images
        learner = session.engine.ema.learner
        if not isinstance(learner, Family):
            if self._scoring.best is None:
                publication.publish_learner(session.folder.model, learner, session.trained())
            return
        is_best = self._scoring.best is None
        path, samples = self._publisher.write_latest(session.model(), is_best=is_best, in_brief=in_brief)
        self._records.trackers.picture(path, images)
        session.listener.on_samples(path)
        if session.config.private is not None:  # an alarm would compare samples with real images
            return
        if images and images * 3 > total(images):
            sampled, guard = self._publisher.sampled(samples), self._records.guard
            session.raise_alarms(guard.on_samples(sampled, self._publisher.real.array))
            if images * 2 > total(images):  # colours settle late, most of all in short runs
                session.raise_alarms(guard.on_colours(sampled, self._publisher.real_colours))

    def examine(self) -> None:
        """Measure all scores of a learner that recognizes images, on those that the run holds out."""
        session, best = self._session, self._scoring.best
        if self._scoring.validation is None or session.held is None or isinstance(session.learner, Family):
            return
        learner, trained = session.learner, session.trained()
        if best is not None:
            learner, trained = copy.deepcopy(learner), dict(best.facts)
            learner.load_state_dict(best.weights)
        judged = judged_by_recognition(session.held, session.config.evaluation)
        reference = reference_of(judged, session.held.split)
        found = examine_learner(learner, judged, n=len(judged), seed=session.config.seed, reference=reference)
        publication.publish_examined(session.folder, learner, trained, found)
