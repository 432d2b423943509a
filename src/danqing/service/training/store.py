"""Data sets and runs in the database; each function is one transaction."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from danqing.service.errors import ApiError
from danqing.service.settings import TrainingSettings
from danqing.service.training.tables import ACTIVE, RunState, TrainingRun, TrainingSet


@dataclass(frozen=True, slots=True)
class Owned:
    """Who owns data sets and runs, and in which data folder."""

    home: str
    owner: str


def add_set(session: Session, whose: Owned, id: str, name: str, limits: TrainingSettings, now: float) -> None:
    """Add an empty data set.

    Raises ApiError 400 when the owner has as many as the settings allow.
    """
    count = select(func.count()).select_from(TrainingSet).where(*_of_set(whose), TrainingSet.id != id)
    if (session.scalar(count) or 0) >= limits.sets:
        raise ApiError(
            400, f"This key has {limits.sets} data sets already: delete one.", code="too_many_sets"
        )
    if session.get(TrainingSet, id) is None:
        values = {"home": whose.home, "owner": whose.owner, "name": name, "created": now}
        session.add(TrainingSet(id=id, images=0, bytes=0, **values))


def find_set(session: Session, whose: Owned, id: str) -> TrainingSet:
    """Return a data set of an owner; raises ApiError 404."""
    found = session.get(TrainingSet, id)
    if found is None or (found.home, found.owner) != (whose.home, whose.owner):
        raise ApiError(404, "There is no such data set for this key.", code="not_found")
    return found


def list_sets(session: Session, whose: Owned) -> list[TrainingSet]:
    """Return the data sets of an owner, the newest first."""
    wanted = select(TrainingSet).where(*_of_set(whose)).order_by(TrainingSet.created.desc(), TrainingSet.id)
    return list(session.scalars(wanted))


def check_room(
    session: Session, whose: Owned, id: str, images: int, size: int, limits: TrainingSettings
) -> None:
    """Raise ApiError 400 if images do not fit into a data set.

    Nor may they exceed what its owner may store.

    images, size: how many are added, and their bytes.
    """
    found = find_set(session, whose, id)
    if found.images + images > limits.images:
        message = (
            f"A data set may have {limits.images:,} images, and this would have {found.images + images:,}."
        )
        raise ApiError(400, message, param="image", code="set_too_large")
    stored = session.scalar(select(func.sum(TrainingSet.bytes)).where(*_of_set(whose))) or 0
    if int(stored) + size > limits.bytes:
        message = f"The data sets of this key may have {limits.bytes:,} bytes together: delete one first."
        raise ApiError(400, message, param="image", code="set_too_large")


def set_size(session: Session, id: str, images: int, size: int) -> None:
    """Record how many images a data set has, and their bytes."""
    if (found := session.get(TrainingSet, id)) is not None:
        found.images, found.bytes = images, size


def delete_set(session: Session, whose: Owned, id: str) -> None:
    """Delete a data set's row; raises ApiError 404."""
    session.delete(find_set(session, whose, id))


def add_run(session: Session, run: TrainingRun, limits: TrainingSettings) -> None:
    """Add a queued run.

    Raises ApiError 400 when its owner has as many as the settings allow.
    """
    count = select(func.count()).where(*_of_run(Owned(run.home, run.owner)), TrainingRun.id != run.id)
    if (session.scalar(count) or 0) >= limits.kept:
        raise ApiError(400, f"This key has {limits.kept} runs already: delete one.", code="too_many_runs")
    session.merge(run)


def find_run(session: Session, whose: Owned, id: str) -> TrainingRun:
    """Return a run of an owner; raises ApiError 404."""
    found = session.get(TrainingRun, id)
    if found is None or (found.home, found.owner) != (whose.home, whose.owner):
        raise ApiError(404, "There is no such run for this key.", code="not_found")
    return found


def run_by_id(session: Session, id: str) -> TrainingRun | None:
    """Return a run, whoever owns it; None if there is none."""
    return session.get(TrainingRun, id)


def list_runs(session: Session, whose: Owned) -> list[TrainingRun]:
    """Return the runs of an owner, the newest first."""
    wanted = select(TrainingRun).where(*_of_run(whose)).order_by(TrainingRun.created.desc(), TrainingRun.id)
    return list(session.scalars(wanted))


def active_runs(session: Session, home: str) -> list[TrainingRun]:
    """Return the runs of a data folder that are not done.

    The oldest come first.
    """
    wanted = select(TrainingRun).where(TrainingRun.home == home, TrainingRun.state.in_(ACTIVE))
    return list(session.scalars(wanted.order_by(TrainingRun.created, TrainingRun.id)))


def served_runs(session: Session, home: str) -> list[TrainingRun]:
    """Return the runs of a data folder whose models are in service."""
    return list(session.scalars(select(TrainingRun).where(TrainingRun.home == home, TrainingRun.model != "")))


def has_started(session: Session, id: str, pid: int, now: float) -> None:
    """Record the process of a run."""
    if (found := session.get(TrainingRun, id)) is not None:
        found.state, found.reason = "running", ""
        found.pid, found.started, found.ended = pid, now, None


def has_ended(session: Session, id: str, state: RunState, reason: str, now: float) -> None:
    """Record how the process of a run has ended."""
    if (found := session.get(TrainingRun, id)) is not None:
        found.state, found.reason, found.pid, found.ended = state, reason, None, now


def stop_run(session: Session, whose: Owned, id: str, now: float) -> TrainingRun:
    """Stop a queued run, and mark one that runs.

    Raises ApiError 404, and 409 for one that is done.
    """
    found = find_run(session, whose, id)
    if found.state == "queued":
        found.state, found.ended = "stopped", now
    elif found.state == "running":
        found.state = "stopping"
    elif found.state not in ("stopping", "stopped"):
        raise ApiError(
            409, f"The run is {found.state}: only one that is not done can be stopped.", code="run_state"
        )
    return found


def resume_run(session: Session, whose: Owned, id: str) -> TrainingRun:
    """Queue a run again that was stopped or has failed.

    Raises ApiError 404 and 409.
    """
    found = find_run(session, whose, id)
    if found.state in ("stopped", "failed"):
        found.state, found.reason = "queued", ""
    elif found.state != "queued":
        raise ApiError(
            409, f"The run is {found.state}: only one that has stopped can go on.", code="run_state"
        )
    return found


def delete_run(session: Session, whose: Owned, id: str) -> None:
    """Delete a run's row; raises ApiError 404."""
    session.delete(find_run(session, whose, id))


def name_model(session: Session, whose: Owned, id: str, model: str) -> None:
    """Record the name under which a run's model is in service.

    model: "" for none. Raises ApiError 404 and 409.
    """
    found = find_run(session, whose, id)
    if model:
        same = select(TrainingRun.id).where(TrainingRun.model == model, TrainingRun.id != id)
        if session.scalar(same) is not None:
            name = model.partition(":")[2].partition("@")[0]
            raise ApiError(
                409,
                f"Another run is in service as {name}: choose another name.",
                param="name",
                code="name_taken",
            )
    found.model = model


def _of_set(whose: Owned) -> tuple[ColumnElement[bool], ...]:
    return TrainingSet.home == whose.home, TrainingSet.owner == whose.owner


def _of_run(whose: Owned) -> tuple[ColumnElement[bool], ...]:
    return TrainingRun.home == whose.home, TrainingRun.owner == whose.owner
