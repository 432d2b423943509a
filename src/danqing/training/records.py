"""What a run records of itself beside its model: log, times, costs, alarms and trackers."""

from collections.abc import Mapping
from typing import Any

from danqing import machine
from danqing.families.abilities import Translates
from danqing.families.base import Family
from danqing.training import facts, publication
from danqing.training.costs import CostMeter, total_cost
from danqing.training.guard import Guard
from danqing.training.json_lines import AppendedLines
from danqing.training.session import Session
from danqing.training.trackers import Trackers, open_trackers
from danqing.training.validation import Validation
from danqing.version import __version__


class Records:
    """The log of a run, and what watches it.

    costs: counts what the run costs.
    track: a service to log to besides TensorBoard.
    guard, trackers: opened by `start`.
    latest: the last line of the log that this process wrote.
    """

    guard: Guard
    trackers: Trackers

    def __init__(self, session: Session, costs: CostMeter, track: str | None) -> None:
        self._session, self._costs, self._track = session, costs, track
        folder = session.folder
        self._log, self._timing = AppendedLines(folder.log_file), AppendedLines(folder.timing_file)
        self.latest: Mapping[str, float] = {}

    def start(self, earlier: Mapping[str, Any]) -> None:
        """Start the guard and the trackers, and write that the run is running.

        All of them continue from the restored log and position.
        earlier: the facts of the run until now.
        """
        session = self._session
        raised = [alarm.get("kind", "") for alarm in earlier.get("alarms", [])]
        self.guard = Guard(session.engine.learner, raised, self._log.read())
        values, images = session.config.model_dump(mode="json"), session.position.images
        self.trackers = open_trackers(
            self._track, session.folder, values, images, session.listener.on_message
        )
        session.folder.update_facts(**_of_beginning(session), alarms=earlier.get("alarms", []))

    def write_line(self, total: int) -> None:
        """Write the averages since the last line, and raise alarms about them.

        total: the budget of the last step, in images.
        """
        session = self._session
        position, engine = session.position, session.engine
        rate = engine.learning_rate(position.images, total, position.learning_rate_scale)
        logged = {"learning_rate": rate, **engine.meter.drain()}
        record = {"images": position.images, "step": position.step, **logged}
        self._log.append(record)
        self._timing.append(position.facts())
        self.latest = record
        self.trackers.log(logged, position.images)
        self.count_costs()
        session.raise_alarms(self.guard.on_log(record, session.begins[-1]))

    def count_costs(self) -> None:
        """Add what was used since the last call to the position."""
        self._costs.count(self._session.position)

    def lengths(self) -> dict[str, int]:
        """Return how long the files are, for a checkpoint."""
        return {"log_bytes": self._log.length, "timing_bytes": self._timing.length}

    def sync(self) -> None:
        """Make the lines durable; another thread may call it."""
        self._log.sync()
        self._timing.sync()

    def cut(self, state: Mapping[str, Any]) -> None:
        """Remove the lines after a checkpoint.

        state: has what `lengths` returned.
        """
        self._log.cut(state["log_bytes"])
        self._timing.cut(state["timing_bytes"])

    def close(self, status: str, reason: str | None, validation: Validation | None) -> None:
        """Close the files and write the status, the costs and the best score to `run.json`."""
        session = self._session
        for lines in (self._log, self._timing, *([validation.lines] if validation else [])):
            lines.close()
        self.count_costs()
        cost = self._costs.cost(session.position)
        if session.stage.tokenized:
            cost = total_cost(session.stage.tokenized.facts["cost"], cost)
        if lengths := session.config.training.ema_lengths:
            ema = facts.of_ema(lengths[0], validation, session.position.images)
            session.folder.update_facts(ema=ema)
            if status == "finished":
                session.listener.on_message(ema["text"])
        if (told := session.privacy()) is not None:
            session.folder.update_facts(privacy=told)
        progress = session.position.facts()
        session.folder.update_facts(status=status, reason=reason, progress=progress, cost=cost)
        best = validation.best if validation else None
        summary = {"images": progress["images"], "seconds": progress["seconds"]}
        summary |= {name: value for name, value in cost.items() if value is not None}
        summary |= {f"best/{best.score.metric}": best.score.value, "best/images": best.images} if best else {}
        self.trackers.finish(status, summary, session.folder.model)


def _of_beginning(session: Session) -> dict[str, Any]:
    """Return what `run.json` says of a run as training begins or continues."""
    config, family, tokenized = session.config, session.engine.learner, session.stage.tokenized
    steps = publication.sampling_steps(session.model()) if isinstance(family, Family) else 0
    brief = publication.BRIEF_STEPS
    return {
        "version": __version__,
        "status": "running",
        "reason": None,
        "patience_images": config.evaluation.patience_images,
        "data": facts.of_data(session.dataset, config, session.held),
        "hardware": machine.hardware(session.device),
        **({"tokenizer": tokenized.facts} if tokenized else {}),
        **({"reconstructs": True} if isinstance(family, Family) and not family.has_prior else {}),
        **({"translates": True} if isinstance(family, Translates) else {}),
        **({"unpaired": True} if config.model.reads_domains else {}),
        **({"task": config.task} if config.task else {}),
        **({"grid_steps": [brief, steps]} if steps > brief else {}),
        **({"prompts": shown} if (shown := publication.prompts(config)) else {}),
        "progress": session.position.facts(),
    }
