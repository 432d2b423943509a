"""Reads jobs from the database; each function is one transaction."""

import json
import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from danqing.service.errors import ApiError
from danqing.service.jobs.tables import UNFINISHED, Job, JobEvent, JobPicture, Status

_ID = re.compile(r"job_[0-9a-f]{32}")


def find(session: Session, owner: str, job_id: str, *, lock: bool = False) -> Job:
    """Return a job of this owner.

    lock: until the end of the transaction.

    Raises ApiError 404, also for jobs of others.
    """
    # Only valid ids are looked up: PostgreSQL rejects NUL.
    job = session.get(Job, job_id, with_for_update=lock) if _ID.fullmatch(job_id) else None
    if job is None or job.owner != owner:
        raise ApiError(404, "There is no such job: GET /v1/jobs lists your jobs.", code="not_found")
    return job


def page(
    session: Session, owner: str, limit: int, after: str | None, status: Status | None
) -> tuple[list[Job], bool]:
    """Return an owner's jobs, the latest first, and whether there are more.

    after: the id of the job before the first one.
    """
    query = select(Job).where(Job.owner == owner)
    if after is not None:
        last = find(session, owner, after)
        query = query.where(tuple_(Job.created, Job.id) < tuple_(last.created, last.id))
    if status is not None:
        query = query.where(Job.status == status)
    found = list(session.scalars(query.order_by(Job.created.desc(), Job.id.desc()).limit(limit + 1)))
    return found[:limit], len(found) > limit


def events_after(session: Session, owner: str, job_id: str, number: int) -> tuple[list[JobEvent], bool]:
    """Return the events of a job after number `number`.

    Also returns whether the job has ended.
    """
    job = find(session, owner, job_id)
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.number > number)
    events = session.scalars(query.order_by(JobEvent.number)).all()
    return list(events), job.status not in UNFINISHED


def ahead_of(session: Session, owner: str, job_id: str) -> tuple[int, int] | None:
    """Return the jobs and the pictures before a queued job.

    None once it is not queued. Raises ApiError 404.
    """
    job = find(session, owner, job_id)
    if job.status != "queued":
        return None
    query = select(func.count(), func.coalesce(func.sum(Job.pictures), 0))
    jobs, pictures = session.execute(query.where(Job.status == "queued", Job.turn < job.turn)).one()
    return int(jobs), int(pictures)


def last_events(session: Session, job_ids: Iterable[str]) -> dict[str, int]:
    """Return the number of the last event of each job."""
    rows = session.execute(select(Job.id, Job.events).where(Job.id.in_(list(job_ids))))
    return {row.id: row.events for row in rows}


def picture(session: Session, owner: str, job_id: str, number: int) -> JobPicture:
    """Return a picture of a job of this owner; raises ApiError 404."""
    find(session, owner, job_id)
    found = session.get(JobPicture, (job_id, number)) if 0 <= number < 2**31 else None
    if found is None:
        raise ApiError(404, f"The job {job_id} has no picture {number}.", code="not_found")
    return found


def describe(job: Job, address: str = "") -> dict[str, Any]:
    """Describe a job for its owner.

    address: of the service, for the addresses of its pictures.
    """
    response = None if job.response is None else json.loads(job.response)
    for one in response["data"] if response else ():
        for picture in (one, *one.get("maps", ())):
            if "url" in picture:  # what recognizes pictures may return no files
                picture["url"] = address + picture["url"]
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "endpoint": job.endpoint,
        "model": job.model,
        "created_at": int(job.created),
        "started_at": None if job.started is None else int(job.started),
        "finished_at": None if job.finished is None else int(job.finished),
        "attempts": job.attempt,
        "progress": {"done": job.done, "total": job.total},
        "request": json.loads(job.request),
        "response": response,
        "error": None if job.error is None else json.loads(job.error),
        "webhook": None if job.webhook is None else {"url": job.webhook},
    }
