"""Jobs in the database, and the only ways in which their state changes; each function is one transaction."""

import hashlib
import json
import math
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, or_, select, tuple_
from sqlalchemy.orm import Session

from danqing.service.errors import ApiError, invalid
from danqing.service.jobs.tables import UNFINISHED, Job, JobBody, JobEvent, JobPicture, Status
from danqing.service.jobs.webhooks import deliver
from danqing.service.requests import json_bodies as uploads
from danqing.service.requests.schemas import Endpoint
from danqing.service.settings import JobSettings

_ID = re.compile(r"job_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A request that was checked and may become a job. body: with all that its pictures follow from.

    request: the same for the eye, without pictures. pictures: how many are asked for. fingerprint: of what
    the client sent, see `fingerprint`.
    """

    id: str
    owner: str
    caller: str
    endpoint: Endpoint
    model: str
    pictures: int
    body: str
    request: str
    fingerprint: str
    idempotency_key: str | None = None
    webhook: str | None = None
    webhook_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a runner may paint, until its lease is over: `id` and `attempt` together are given once.

    size: characters of its body. charged: when its pictures were counted against the owner's quota, seconds
    since 1970.
    """

    id: str
    attempt: int
    owner: str
    caller: str
    endpoint: Endpoint
    pictures: int
    size: int
    charged: float


def new_id() -> str:
    """An identifier that no other job has."""
    return f"job_{uuid.uuid4().hex}"


async def fingerprint(asked: Mapping[str, Any]) -> str:
    """The same for the same request, whatever the order of its fields."""
    hasher = hashlib.sha256()
    async for piece in uploads.written(asked):
        hasher.update(piece.encode())
    return hasher.hexdigest()


def find_repeated(session: Session, owner: str, key: str, asked: str) -> Job | None:
    """The job that was accepted for an idempotency key; raises ApiError 400 where another was asked for."""
    job = session.scalar(select(Job).where(Job.owner == owner, Job.idempotency_key == key))
    if job is not None and job.fingerprint != asked:
        raise invalid(
            "This Idempotency-Key belongs to another request: draw a new key for a new job.",
            "Idempotency-Key",
            "idempotency_key_reused",
        )
    return job


def accept(session: Session, new: NewJob, limits: JobSettings, now: float) -> Job:
    """Put a job in line, or find the one that was accepted for this request before.

    Owners take turns by the pictures they ask for (start-time fair queueing, Goyal et al. 1996): a job's turn
    is after the owner's last, but not before those that are next in line. Raises ApiError 429 where the owner
    has too much in line.
    """
    if (job := session.get(Job, new.id)) is not None:  # the answer of the first commit was lost
        return job
    key = new.idempotency_key
    if key and (job := find_repeated(session, new.owner, key, new.fingerprint)) is not None:
        return job
    unfinished = (Job.owner == new.owner, Job.status.in_(UNFINISHED))
    count, size, last = session.execute(
        select(
            func.count(), func.coalesce(func.sum(Job.size), 0), func.coalesce(func.max(Job.turn), 0)
        ).where(*unfinished)
    ).one()
    if count >= limits.waiting or size + len(new.body) > limits.bytes:
        raise ApiError(
            429,
            f"{count:,} jobs with {size:,} bytes are unfinished; there may be {limits.waiting:,} with "
            f"{limits.bytes:,} bytes: wait until some are done.",
            code="too_many_jobs",
            headers={"retry-after": "30"},
        )
    front = session.scalar(select(func.min(Job.turn)).where(Job.status == "queued"))
    if front is None:
        front = session.scalar(select(func.max(Job.turn)).where(Job.status == "running")) or 0
    job = Job(
        id=new.id,
        owner=new.owner,
        caller=new.caller,
        status="queued",
        endpoint=new.endpoint,
        model=new.model,
        pictures=new.pictures,
        size=len(new.body),
        request=new.request,
        fingerprint=new.fingerprint,
        idempotency_key=key,
        created=now,
        turn=max(int(last), front) + new.pictures,
        webhook=new.webhook,
        webhook_secret=new.webhook_secret,
        attempt=0,
        losses=0,
        done=0,
        total=0,
        events=0,
    )
    session.add(job)
    session.flush()
    session.add(JobBody(job_id=job.id, content=new.body))
    _tell(session, job, "queued", now)
    return job


def claim(
    session: Session,
    runner: str,
    models: Collection[str],
    room: int,
    lease: float,
    now: float,
    but: Collection[str] = (),
    space: float = math.inf,
) -> list[Claim]:
    """Take the next jobs in line for these models, of `room` pictures and `space` characters of bodies
    together, and where the runner has none, at least one job.

    but: jobs that are not taken, for the runner has them, or has not yet let go of an earlier attempt.
    """
    jobs = session.scalars(
        select(Job)
        .where(Job.status == "queued", Job.model.in_(models), Job.id.not_in(but))
        .where(or_(Job.due.is_(None), Job.due <= now))
        .order_by(Job.turn, Job.created)
        .limit(max(1, room))
        .with_for_update(skip_locked=True)
    ).all()
    claims: list[Claim] = []
    for job in jobs:
        if (claims and job.pictures > room) or ((claims or but) and job.size > space):
            break
        room -= job.pictures
        space -= job.size
        job.status, job.runner, job.lease = "running", runner, now + lease
        job.attempt += 1
        job.begun = job.due = None
        job.done = job.total = 0
        job.started = job.started or now
        _tell(session, job, "running", now, attempt=job.attempt)
        claims.append(
            Claim(
                job.id,
                job.attempt,
                job.owner,
                job.caller,
                job.endpoint,
                job.pictures,
                job.size,
                job.created,
            )
        )
    return claims


def begin(session: Session, claims: Iterable[Claim], now: float) -> None:
    """Note that these jobs are being painted: a runner that falls silent from now on may do so because of
    them.
    """
    for claim in claims:
        if (job := _held(session, claim)) is not None:
            job.begun = now


def body_of(session: Session, claim: Claim) -> str | None:
    """What is to be painted; None where the claim does not hold."""
    body = session.get(JobBody, claim.id)
    return None if body is None or _held(session, claim) is None else body.content


def renew(
    session: Session, runner: str, steps: Mapping[str, tuple[int, int]], lease: float, now: float
) -> set[str]:
    """Say that a runner is still there, and tell of the steps done of all steps of its jobs.

    Returns those of `steps` that are still its own: others were cancelled, or taken over.
    """
    query = select(Job).where(Job.id.in_(list(steps)), Job.status == "running", Job.runner == runner)
    jobs = session.scalars(query.order_by(Job.id).with_for_update())
    held = set()
    for job in jobs:
        held.add(job.id)
        job.lease = now + lease
        if (job.done, job.total) != steps[job.id]:
            job.done, job.total = steps[job.id]
            _tell(session, job, "progress", now, done=job.done, total=job.total)
    return held


def reclaim(session: Session, attempts: int, now: float) -> int:
    """Put jobs back in line whose runner fell silent, and give up those that `attempts` runners did not
    survive: one that only waited its turn there is not to blame. Returns how many there were.
    """
    query = select(Job).where(Job.status == "running", Job.lease < now).order_by(Job.id).limit(100)
    jobs = session.scalars(query.with_for_update(skip_locked=True)).all()
    for job in jobs:
        job.losses += job.begun is not None
        if job.losses < attempts:
            _put_back(session, job, now)
        else:
            message = f"{attempts} servers ended while they painted this job: it is not tried again."
            _finish(session, job, "failed", now, error=ApiError(500, message, code="painting_failed"))
    return len(jobs)


def put_back(session: Session, claims: Iterable[Claim], now: float, delay: float = 0.0) -> bool:
    """Leave jobs to whoever comes next, after `delay` seconds; whether all of the claims held."""
    jobs = [_held(session, claim) for claim in claims]
    for job in jobs:
        if job is not None:
            _put_back(session, job, now)
            job.due = now + delay if delay else None
    return None not in jobs


def succeed(
    session: Session,
    claim: Claim,
    response: Mapping[str, Any],
    pictures: Sequence[tuple[str, bytes]],
    now: float,
) -> bool:
    """Keep a job's answer and its pictures (media type, content); False where the claim does not hold."""
    if (job := _held(session, claim)) is None:
        return False
    for number, (media_type, content) in enumerate(pictures):
        session.add(JobPicture(job_id=job.id, number=number, media_type=media_type, content=content))
    job.done = job.total
    job.response = json.dumps(response)
    _finish(session, job, "succeeded", now)
    return True


def fail(session: Session, claim: Claim, error: ApiError, now: float) -> bool:
    """Say why a job has no pictures; False where the claim does not hold."""
    if (job := _held(session, claim)) is None:
        return False
    _finish(session, job, "failed", now, error=error)
    return True


def cancel(session: Session, owner: str, job_id: str, now: float) -> tuple[Job, bool]:
    """End an unfinished job of this owner; others stay as they are. Returns it, and whether it had never been
    begun and is cancelled now. Raises ApiError 404.
    """
    job = _owned(session, owner, job_id, lock=True)
    untouched = job.status == "queued" and job.attempt == 0
    if job.status in UNFINISHED:
        _finish(session, job, "cancelled", now)
    return job, untouched


def find(session: Session, owner: str, job_id: str) -> Job:
    """A job of this owner; raises ApiError 404, for those of others as well."""
    return _owned(session, owner, job_id)


def page(
    session: Session, owner: str, limit: int, after: str | None, status: Status | None
) -> tuple[list[Job], bool]:
    """An owner's jobs, the latest first, from the one after `after`; and whether there are more."""
    query = select(Job).where(Job.owner == owner)
    if after is not None:
        last = _owned(session, owner, after)
        query = query.where(tuple_(Job.created, Job.id) < tuple_(last.created, last.id))
    if status is not None:
        query = query.where(Job.status == status)
    found = list(session.scalars(query.order_by(Job.created.desc(), Job.id.desc()).limit(limit + 1)))
    return found[:limit], len(found) > limit


def events_after(session: Session, owner: str, job_id: str, number: int) -> tuple[list[JobEvent], bool]:
    """What happened to a job after its event `number`; and whether nothing more will."""
    job = _owned(session, owner, job_id)
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.number > number)
    events = session.scalars(query.order_by(JobEvent.number)).all()
    return list(events), job.status not in UNFINISHED


def last_events(session: Session, job_ids: Iterable[str]) -> dict[str, int]:
    """The number of the last event of each job."""
    rows = session.execute(select(Job.id, Job.events).where(Job.id.in_(list(job_ids))))
    return {row.id: row.events for row in rows}


def picture(session: Session, owner: str, job_id: str, number: int) -> JobPicture:
    """A picture of a job of this owner; raises ApiError 404."""
    _owned(session, owner, job_id)
    if (found := session.get(JobPicture, (job_id, number))) is None:
        raise ApiError(404, f"The job {job_id} has no picture {number}.", code="not_found")
    return found


def forget(session: Session, before: float) -> int:
    """Delete jobs that were finished before this time, with all that belongs to them; some hundreds at once.
    Returns how many.
    """
    old = select(Job.id).where(Job.finished < before).limit(200)
    ids = session.scalars(old).all()
    session.execute(delete(Job).where(Job.id.in_(ids)))
    return len(ids)


def describe(job: Job, address: str = "") -> dict[str, Any]:
    """A job as its owner sees it. address: of the service, with which those of its pictures begin."""
    response = None if job.response is None else json.loads(job.response)
    for picture in response["data"] if response else ():
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


def _owned(session: Session, owner: str, job_id: str, *, lock: bool = False) -> Job:
    # Only what looks like one is asked for: PostgreSQL takes no NUL.
    job = session.get(Job, job_id, with_for_update=lock) if _ID.fullmatch(job_id) else None
    if job is None or job.owner != owner:
        raise ApiError(404, "There is no such job: GET /v1/jobs lists yours.", code="not_found")
    return job


def _held(session: Session, claim: Claim) -> Job | None:
    """The job of a claim that still holds: nobody has cancelled it or taken it over."""
    job = session.get(Job, claim.id, with_for_update=True)
    return job if job is not None and job.status == "running" and job.attempt == claim.attempt else None


def _put_back(session: Session, job: Job, now: float) -> None:
    job.status, job.runner, job.lease = "queued", None, None
    _tell(session, job, "queued", now)


def _finish(session: Session, job: Job, status: Status, now: float, *, error: ApiError | None = None) -> None:
    job.status, job.finished, job.runner, job.lease = status, now, None, None
    job.error = json.dumps(error.body()["error"]) if error else None
    session.execute(delete(JobBody).where(JobBody.job_id == job.id))
    _tell(session, job, status, now)
    if job.webhook is not None:
        deliver(session, job.id, job.webhook, job.webhook_secret or "", f"job.{status}", describe(job), now)


def _tell(session: Session, job: Job, what: str, now: float, **more: Any) -> None:
    job.events += 1
    data = {"type": f"job.{what}", "job_id": job.id, "created_at": int(now), **more}
    session.add(JobEvent(job_id=job.id, number=job.events, type=f"job.{what}", data=json.dumps(data)))
