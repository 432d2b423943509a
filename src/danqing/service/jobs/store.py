"""The state of jobs in the database, and all its transitions; each function is one transaction."""

import hashlib
import json
import math
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from danqing.service.access import usage
from danqing.service.errors import ApiError, invalid
from danqing.service.jobs import queries
from danqing.service.jobs.tables import UNFINISHED, Job, JobBody, JobEvent, JobPart, JobPicture, Status
from danqing.service.jobs.webhooks import deliver
from danqing.service.requests import json_bodies
from danqing.service.requests.schemas import JobEndpoint
from danqing.service.settings import JobSettings


@dataclass(frozen=True, slots=True)
class NewJob:
    """A checked request that may become a job.

    body: everything that its pictures depend on, in JSON.
    request: the same without pictures, to be shown to clients.
    pictures: how many are requested.
    fingerprint: of what the client sent; see `fingerprint`.
    """

    id: str
    owner: str
    caller: str
    endpoint: JobEndpoint
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
    """A job that a runner may run until its lease expires.

    Each pair of `id` and `attempt` is claimed once.

    size: of its body, in characters.
    charged: when its pictures were counted against the owner's quota, in seconds since 1970.
    """

    id: str
    attempt: int
    owner: str
    caller: str
    endpoint: JobEndpoint
    pictures: int
    size: int
    charged: float


class Part(NamedTuple):
    """A result of a job that edits a zip; see `JobPart`."""

    number: int
    output: str = ""
    size: int = 0
    error: str | None = None


def new_id() -> str:
    """Return an id that no other job has."""
    return f"job_{uuid.uuid4().hex}"


async def fingerprint(asked: Mapping[str, Any]) -> str:
    """Return a hash of a request, whatever the order of its fields."""
    hasher = hashlib.sha256()
    async for piece in json_bodies.write_json(asked):
        hasher.update(piece.encode())
    return hasher.hexdigest()


def find_repeated(session: Session, owner: str, key: str, asked: str) -> Job | None:
    """Return the job of an idempotency key.

    Raises ApiError 400 if its request was another.
    """
    job = session.scalar(select(Job).where(Job.owner == owner, Job.idempotency_key == key))
    if job is not None and job.fingerprint != asked:
        raise invalid(
            "This Idempotency-Key belongs to another request: use a new key for a new job.",
            "Idempotency-Key",
            "idempotency_key_reused",
        )
    return job


def accept(
    session: Session,
    new: NewJob,
    limits: JobSettings,
    now: float,
    quota: int | None = None,
    unwritten: int = 0,
) -> Job:
    """Queue a job and count its pictures, or find an earlier one.

    The same request returns the job that was accepted for it before.

    Owners take turns by the pictures that they request. This is the order of `fairness.turns`, stored in the
    database because several servers share it: a job's turn is after the owner's last one, but not before the
    jobs that are next. Raises ApiError 429 if the owner has too much queued, or too little of its quota left.

    quota, unwritten: see `usage.charge`.
    """
    if (job := session.get(Job, new.id)) is not None:  # the answer of the first commit was lost
        return job
    key = new.idempotency_key
    if key and (job := find_repeated(session, new.owner, key, new.fingerprint)) is not None:
        return job
    if new.owner:  # the jobs of an owner are accepted one after the other from here on
        usage.charge(session, new.owner, new.pictures, quota, unwritten, now)
    unfinished = (Job.owner == new.owner, Job.status.in_(UNFINISHED))
    count, size, last = session.execute(
        select(
            func.count(), func.coalesce(func.sum(Job.size), 0), func.coalesce(func.max(Job.turn), 0)
        ).where(*unfinished)
    ).one()
    if count >= limits.waiting or size + len(new.body) > limits.bytes:
        raise ApiError(
            429,
            f"{count:,} jobs with {size:,} bytes are unfinished; the limits are {limits.waiting:,} jobs and "
            f"{limits.bytes:,} bytes: retry when some have finished.",
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
    _add_event(session, job, "queued", now)
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
    """Claim the next jobs for some models.

    At least one for an idle runner.

    room: pictures that they may have together.
    lease: seconds.
    but: jobs that are not claimed: the runner has them, or has not yet ended an earlier attempt.
    space: characters that their bodies may have together.
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
        _add_event(session, job, "running", now, attempt=job.attempt)
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
    """Store that jobs are being painted.

    If the runner becomes silent, they may be the cause.
    """
    for claim in claims:
        if (job := _claimed(session, claim)) is not None:
            job.begun = now


def body_of(session: Session, claim: Claim) -> str | None:
    """Return the body of a claimed job.

    None if the claim is no longer valid.
    """
    body = session.get(JobBody, claim.id)
    return None if body is None or _claimed(session, claim) is None else body.content


def parts_of(session: Session, claim: Claim) -> list[Part]:
    """Return the results that a job has so far, without their contents."""
    query = select(JobPart).where(JobPart.job_id == claim.id).order_by(JobPart.number)
    return [Part(one.number, one.output, one.size, one.error) for one in session.scalars(query)]


def part_content(session: Session, claim: Claim, number: int) -> bytes:
    """Return the content of a result."""
    part = session.get_one(JobPart, (claim.id, number))
    return part.content or b""


def add_parts(session: Session, claim: Claim, parts: Sequence[tuple[Part, bytes | None]]) -> bool:
    """Store results of a job; return whether the claim was valid.

    A job that makes progress is not the cause of the end of earlier servers.
    """
    if (job := _claimed(session, claim)) is None:
        return False
    for part, content in parts:
        session.merge(JobPart(job_id=job.id, **part._asdict(), content=content))
    job.losses = 0
    return True


def renew(
    session: Session, runner: str, steps: Mapping[str, tuple[int, int]], lease: float, now: float
) -> set[str]:
    """Renew a runner's leases, and store the progress of its jobs.

    steps: done, and all, by job.

    Returns those of its jobs that are still its own; others were cancelled or taken over.
    """
    query = select(Job).where(Job.id.in_(list(steps)), Job.status == "running", Job.runner == runner)
    jobs = session.scalars(query.order_by(Job.id).with_for_update())
    held = set()
    for job in jobs:
        held.add(job.id)
        job.lease = now + lease
        if (job.done, job.total) != steps[job.id]:
            job.done, job.total = steps[job.id]
            _add_event(session, job, "progress", now, done=job.done, total=job.total)
    return held


def reclaim(session: Session, attempts: int, now: float) -> int:
    """Requeue the jobs of silent runners; return how many there were.

    A job that was running on `attempts` runners when they became silent fails instead; a job that only
    waited there is not the cause.
    """
    query = select(Job).where(Job.status == "running", Job.lease < now).order_by(Job.id).limit(100)
    jobs = session.scalars(query.with_for_update(skip_locked=True)).all()
    for job in jobs:
        job.losses += job.begun is not None
        if job.losses < attempts:
            _requeue(session, job, now)
        else:
            message = f"{attempts} servers ended while they painted this job: it is not retried."
            _finish(session, job, "failed", now, error=ApiError(500, message, code="painting_failed"))
            _refund(session, job)
    return len(jobs)


def put_back(session: Session, claims: Iterable[Claim], now: float, delay: float = 0.0) -> bool:
    """Requeue jobs, to be claimed after `delay` seconds.

    Return whether all claims were valid.
    """
    jobs = [_claimed(session, claim) for claim in claims]
    for job in jobs:
        if job is not None:
            _requeue(session, job, now)
            job.due = now + delay if delay else None
    return None not in jobs


def succeed(
    session: Session,
    claim: Claim,
    response: Mapping[str, Any],
    pictures: Sequence[tuple[str, bytes]],
    now: float,
) -> bool:
    """Store a job's answer and pictures (media type, content).

    Return whether the claim was valid.
    """
    if (job := _claimed(session, claim)) is None:
        return False
    for number, (media_type, content) in enumerate(pictures):
        session.add(JobPicture(job_id=job.id, number=number, media_type=media_type, content=content))
    job.done = job.total
    job.response = json.dumps(response)
    _finish(session, job, "succeeded", now)
    return True


def fail(session: Session, claim: Claim, error: ApiError, now: float) -> bool:
    """Store why a job failed, and refund its pictures.

    Return whether the claim was valid.
    """
    if (job := _claimed(session, claim)) is None:
        return False
    _finish(session, job, "failed", now, error=error)
    _refund(session, job)
    return True


def cancel(session: Session, owner: str, job_id: str, now: float) -> tuple[Job, bool]:
    """Cancel a job of this owner, unless it has ended.

    Raises ApiError 404.

    Returns the job, and whether it was cancelled before it was ever started, and was refunded.
    """
    job = queries.find(session, owner, job_id, lock=True)
    untouched = job.status == "queued" and job.attempt == 0
    if job.status in UNFINISHED:
        _finish(session, job, "cancelled", now)
    if untouched:
        _refund(session, job)
    return job, untouched


def drop_pictures(session: Session, pictures: Sequence[tuple[str, int]]) -> None:
    """Delete pictures, each by its job's id and its number."""
    for job_id, number in pictures:
        where = JobPicture.job_id == job_id, JobPicture.number == number
        session.execute(delete(JobPicture).where(*where))


def forget(session: Session, before: float) -> int:
    """Delete some hundred jobs that finished before this time; return how many."""
    old = select(Job.id).where(Job.finished < before).limit(200)
    ids = session.scalars(old).all()
    session.execute(delete(Job).where(Job.id.in_(ids)))
    return len(ids)


def _claimed(session: Session, claim: Claim) -> Job | None:
    """Return the job of a claim; None if it was cancelled or taken over."""
    job = session.get(Job, claim.id, with_for_update=True)
    return job if job is not None and job.status == "running" and job.attempt == claim.attempt else None


def _requeue(session: Session, job: Job, now: float) -> None:
    job.status, job.runner, job.lease = "queued", None, None
    _add_event(session, job, "queued", now)


def _finish(session: Session, job: Job, status: Status, now: float, *, error: ApiError | None = None) -> None:
    job.status, job.finished, job.runner, job.lease = status, now, None, None
    job.error = json.dumps(error.body()["error"]) if error else None
    for table in (JobBody, JobPart):
        session.execute(delete(table).where(table.job_id == job.id))
    _add_event(session, job, status, now)
    if job.webhook is not None:
        secret, description = job.webhook_secret or "", queries.describe(job)
        deliver(session, job.id, job.webhook, secret, f"job.{status}", description, now)


def _refund(session: Session, job: Job) -> None:
    """Refund the pictures of a job, on the day on which they were counted."""
    if job.owner:
        usage.refund(session, job.owner, job.pictures, job.created)


def _add_event(session: Session, job: Job, what: str, now: float, **more: Any) -> None:
    job.events += 1
    data = {"type": f"job.{what}", "job_id": job.id, "created_at": int(now), **more}
    session.add(JobEvent(job_id=job.id, number=job.events, type=f"job.{what}", data=json.dumps(data)))
