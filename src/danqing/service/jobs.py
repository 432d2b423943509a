"""Runs jobs: takes them from the database, has them painted beside all else, keeps what became of them."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from danqing.errors import DanqingError
from danqing.service import job_store, logs, painting, sources, uploads, visit
from danqing.service.caller import RIGHTS, Caller
from danqing.service.database import Database, DatabaseError
from danqing.service.errors import ApiError, from_danqing, internal, invalid
from danqing.service.job_store import Claim, NewJob
from danqing.service.job_tables import Job, JobEvent, JobPicture, Status
from danqing.service.job_watchers import Watchers
from danqing.service.keys import Key
from danqing.service.orders import OrderCancelledError, OverloadedError, Painted, Priority, Progress
from danqing.service.pictures import MEDIA_TYPES
from danqing.service.settings import Settings
from danqing.service.webhooks import DELAYS, Webhooks, new_secret
from danqing.service.wire import Endpoint

if TYPE_CHECKING:
    from danqing.service.state import Service

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SWEEP_SECONDS = 60.0
_AGAIN_SECONDS = 1.0  # after something went wrong
_SHORTEST_DELAY, _LONGEST_DELAY = 1.0, 300.0  # of a job that cannot be painted at present; doubled each time
_PLANNED_AT_ONCE = 2  # bodies that are in memory together, for each may hold many pictures

_log = logging.getLogger("danqing.jobs")


@dataclasses.dataclass(eq=False, slots=True)
class _Running:
    claim: Claim
    steps: tuple[int, int] = (0, 0)
    painted: bool = False
    storing: bool = False
    task: asyncio.Task[None] | None = None


class Jobs:
    """The jobs of a service: those that are in its database, and those of them that this process paints.

    beat: seconds between two looks into the database, in which leases are renewed. delays: see `Webhooks`.
    """

    def __init__(
        self, settings: Settings, database: Database, *, beat: float = 1.0, delays: Sequence[float] = DELAYS
    ) -> None:
        self._settings, self._limits, self._database = settings, settings.jobs, database
        self._runner = f"run_{uuid.uuid4().hex}"
        self._beat_seconds = min(beat, self._limits.lease / 3)
        self._room = 2 * settings.engine.batch  # so that one batch can be put together while one is painted
        self._webhooks = Webhooks(settings.outbound, database, delays)
        self._running: dict[str, _Running] = {}
        self._begun: list[Claim] = []
        self._begins = asyncio.Event()
        self._looked_at, self._patient_until = math.inf, -math.inf
        self._watchers = Watchers()
        self._news = asyncio.Event()
        self._planning = asyncio.Semaphore(_PLANNED_AT_ONCE)
        self._loops: list[asyncio.Task[None]] = []
        self._dispatcher: asyncio.Task[None] | None = None
        self._service: Service | None = None

    async def start(self, service: "Service") -> None:
        """Take up the jobs that are in line."""
        self._service = service
        self._dispatcher = asyncio.create_task(self._forever(self._dispatch))
        loops = (self._beat, self._note_begun, self._sweep, self._webhooks.run, self._hang_up)
        self._loops = [asyncio.create_task(self._forever(loop)) for loop in loops]

    async def stop(self) -> None:
        """Store what is painted, leave all else to the next server, and end."""
        if self._dispatcher is not None:
            await _ended(self._dispatcher)
        painting = [one for one in self._running.values() if not one.storing]
        await _ended(*(one.task for one in painting if one.task))
        with contextlib.suppress(DatabaseError):  # their leases run out as well
            claims = [one.claim for one in painting]
            await self._database.run(job_store.put_back, claims, time.time())
        storing = [one.task for one in self._running.values() if one.task]
        if storing:
            await asyncio.wait(storing, timeout=self._limits.lease)
        await _ended(*self._loops, *storing)

    async def accept(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        caller: Caller,
        *,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        webhook_secret: str | None = None,
    ) -> tuple[Job, bool]:
        """The job of a request, and whether it is new: with an idempotency key it is accepted once.

        The request is checked as if it were painted now, and charged. Raises ApiError.
        """
        for field in ("stream", "partial_images"):
            if body.get(field):
                message = f"A job has no {field}: GET /v1/jobs/ID/events tells how far it is."
                raise invalid(message, f"body.{field}", "unsupported_parameter")
        assert self._service is not None
        owner = caller.key_id or ""
        asked = await job_store.fingerprint(
            {"endpoint": endpoint, "body": body, "webhook": [webhook, webhook_secret]}
        )
        if idempotency_key is not None:
            repeated = await self._database.run(job_store.find_repeated, owner, idempotency_key, asked)
            if repeated is not None:
                return repeated, False
        if webhook is not None:
            await self._webhooks.check(webhook, webhook_secret)
            webhook_secret = webhook_secret or new_secret()
        body = await sources.embedded(self._service, body)
        plan = await painting.plan(self._service, endpoint, body, caller)
        model, seed, pictures = plan.offer.name, plan.seed, plan.n
        del plan  # and the pictures in it
        # What it depends on is fixed now: run again after a crash, it has the same pictures.
        whole = {**body, "model": model, "seed": seed}
        whole.pop("response_format", None)
        new = NewJob(
            id=job_store.new_id(),
            owner=owner,
            caller=caller.name,
            endpoint=endpoint,
            model=model,
            pictures=pictures,
            body=await _written(whole),
            request=json.dumps({name: whole[name] for name in whole if name not in ("images", "mask")}),
            fingerprint=asked,
            idempotency_key=idempotency_key,
            webhook=webhook,
            webhook_secret=webhook_secret,
        )
        charged = caller.account.charge(pictures)
        try:
            job = await self._accept(new, charged)
        except Exception:
            caller.account.refund(pictures, charged)
            raise
        if job.id != new.id:
            caller.account.refund(pictures, charged)
            return job, False
        self._news.set()
        return job, True

    async def _accept(self, new: NewJob, now: float) -> Job:
        try:
            return await self._database.run(job_store.accept, new, self._limits, now)
        except IntegrityError:  # the same idempotency key came twice at the same moment
            return await self._database.run(job_store.accept, new, self._limits, now)

    async def find(self, owner: str, job_id: str) -> Job:
        """A job of this owner; raises ApiError 404."""
        return await self._database.run(job_store.find, owner, job_id)

    async def page(
        self, owner: str, *, limit: int, after: str | None = None, status: Status | None = None
    ) -> tuple[list[Job], bool]:
        """An owner's jobs, the latest first, from the one after `after`; and whether there are more."""
        return await self._database.run(job_store.page, owner, limit, after, status)

    async def picture(self, owner: str, job_id: str, number: int) -> JobPicture:
        """A picture of a job of this owner; raises ApiError 404."""
        return await self._database.run(job_store.picture, owner, job_id, number)

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """End a job, unless it has ended already; one that was never begun costs nothing."""
        owner = caller.key_id or ""
        job, untouched = await self._database.run(job_store.cancel, owner, job_id, time.time())
        if untouched:
            caller.account.refund(job.pictures, job.created)
        if (running := self._running.get(job_id)) is not None:
            self._abandon(running)
        self._changed(job_id)
        return job

    async def events(self, owner: str, job_id: str, after: int) -> AsyncIterator[JobEvent]:
        """What happened to a job after its event number `after`, and what happens from now on until it ends,
        or the service does. Raises ApiError 404.
        """
        assert self._service is not None
        with self._watchers.watch(job_id) as changed:
            while not self._service.draining.is_set():
                changed.clear()
                events, finished = await self._database.run(job_store.events_after, owner, job_id, after)
                for event in events:
                    after = event.number
                    yield event
                if finished:
                    return
                await changed.wait()

    def _changed(self, job_id: str) -> None:
        self._watchers.tell(job_id)
        self._webhooks.wake()

    async def _hang_up(self) -> None:
        """Let go of all who watch when the service stops: their clients come back to the next one."""
        assert self._service is not None
        await self._service.draining.wait()
        self._watchers.tell_all()
        await asyncio.Event().wait()

    async def _dispatch(self) -> None:
        """Take the next jobs whenever there is room for them."""
        assert self._service is not None
        while not self._service.draining.is_set():
            self._news.clear()
            claims = [one.claim for one in self._running.values()]
            room = self._room - sum(claim.pictures for claim in claims)
            space = self._settings.limits.bytes_in_flight - sum(claim.size for claim in claims)
            taken: list[Claim] = []
            if room > 0:
                offers = self._service.engine.offers.values()
                models = [offer.name for offer in offers if offer.fault is None]
                here, lease = list(self._running), self._limits.lease
                taken = await self._database.run(
                    job_store.claim, self._runner, models, room, lease, time.time(), here, space
                )
                for claim in taken:
                    running = self._running[claim.id] = _Running(claim)
                    running.task = asyncio.create_task(self._run(running))
                    self._changed(claim.id)
            if not taken:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._beat_seconds):
                        await self._news.wait()
        await asyncio.Event().wait()

    async def _beat(self) -> None:
        """Renew leases, tell of progress, take over from servers that fell silent, see what others did."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            running = dict(self._running)
            steps = {job_id: one.steps for job_id, one in running.items()}
            held, taken_over, numbers = await self._database.run(self._look, steps, self._watchers.jobs)
            self._looked_at = time.time()
            for job_id in steps.keys() - held:
                self._abandon(running[job_id])
            for job_id, number in numbers.items():
                self._watchers.tell_of(job_id, number)
            if taken_over:
                logs.event(_log, "jobs of a silent server are taken over", logging.WARNING, jobs=taken_over)
                self._news.set()
                self._webhooks.wake()

    def _look(
        self, session: Session, steps: Mapping[str, tuple[int, int]], watched: Sequence[str]
    ) -> tuple[set[str], int, dict[str, int]]:
        now, lease = time.time(), self._limits.lease
        held = job_store.renew(session, self._runner, steps, lease, now) if steps else set()
        if now - self._looked_at > lease:  # the database was away: the others could not renew theirs either
            self._patient_until = now + lease
        taken_over = (
            job_store.reclaim(session, self._limits.attempts, now) if now > self._patient_until else 0
        )
        return held, taken_over, job_store.last_events(session, watched) if watched else {}

    async def _note_begun(self) -> None:
        """Keep which jobs are being painted, all those of a batch in one transaction."""
        while True:
            await self._begins.wait()
            self._begins.clear()
            begun, self._begun = self._begun, []
            await self._database.run(job_store.begin, begun, time.time())

    def _begin(self, claim: Claim) -> None:
        self._begun.append(claim)
        self._begins.set()

    async def _sweep(self) -> None:
        """Delete what is older than it is kept."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = time.time() - self._limits.keep * 86_400
            while await self._database.run(job_store.forget, oldest):
                pass

    def _abandon(self, running: _Running) -> None:
        """Stop painting a job that is no longer ours; what is being stored is refused by the database."""
        if running.task is not None and not running.storing:
            running.task.cancel()

    async def _run(self, running: _Running) -> None:
        claim = running.claim
        try:
            change, refunded = await self._outcome(running)
            running.storing = True
            if not await self._insist(change, time.time()):
                self._log_loss(running)
            elif refunded is not None:
                refunded.account.refund(claim.pictures, claim.charged)
        finally:
            del self._running[claim.id]
            self._changed(claim.id)
            self._news.set()

    def _log_loss(self, running: _Running) -> None:
        what = "a job was painted that another server has taken over, or its client cancelled"
        logs.event(
            _log, what if running.painted else "a job was taken over or cancelled", job=running.claim.id
        )

    async def _outcome(self, running: _Running) -> tuple[Callable[[Session, float], bool], Caller | None]:
        """Paint a job; returns the transaction that keeps what became of it, now, and whom to give back its
        pictures once that is kept.
        """
        claim = running.claim
        try:
            answer, files = await self._painted(running)
            running.painted = True
            return lambda session, now: job_store.succeed(session, claim, answer, files, now), None
        except (ApiError, DanqingError) as error:
            failure = error if isinstance(error, ApiError) else from_danqing(error)
        except Exception:
            _log.exception("the job %s failed", claim.id)
            failure = internal()
        if failure.status == 503:  # the engine stops, or the model cannot be loaded at present
            delay = min(_LONGEST_DELAY, _SHORTEST_DELAY * 2.0 ** min(claim.attempt - 1, 10))
            return lambda session, now: job_store.put_back(session, [claim], now, delay), None
        assert self._service is not None
        caller = self._service.keys.of(claim.owner)
        return lambda session, now: job_store.fail(session, claim, failure, now), caller

    async def _painted(self, running: _Running) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        """The answer of a job and its pictures, by media type and content."""
        claim = running.claim
        assert self._service is not None
        async with self._planning:
            body, good = await self._insist(_to_paint, claim, time.time())
            if body is None:
                raise OrderCancelledError("The job has ended.")
            if not good:
                message = "The key of this job was revoked, or expired, before it was painted."
                raise ApiError(401, message, code="revoked_api_key")
            # What else the key may do was checked when the job was accepted.
            caller = Caller(claim.owner or None, claim.caller, frozenset(RIGHTS))
            asked = await uploads.read(body.encode(), self._settings.limits)
            plan = await painting.plan(self._service, claim.endpoint, asked, caller)
            del body, asked
        order = dataclasses.replace(plan.order, priority=Priority.JOB, seconds=self._limits.seconds)
        painted: Painted | None = None
        while painted is None:
            try:
                ticket = self._service.engine.submit(order)
                ticket.on_begin = functools.partial(self._begin, claim)
            except OverloadedError as error:
                await asyncio.sleep(min(error.retry_after, 5.0))
                continue
            try:
                async for event in ticket:
                    match event:
                        case Progress(done, total):
                            running.steps = (done, total)
                        case Painted():
                            painted = event
            finally:
                if painted is None:
                    ticket.cancel()
        async with self._service.pictures.line.turn(plan.work):
            files = [(MEDIA_TYPES[plan.format], content) for content in await plan.encode(painted.pixels)]
        told = {} if plan.revised is None else {"revised_prompt": plan.revised}
        data = [{"url": f"/v1/jobs/{claim.id}/images/{i}", **told} for i in range(len(files))]
        return plan.describe(data), files

    async def _insist(self, function: Callable[[Session, *Ts], T], *arguments: *Ts) -> T:
        """As `Database.run`, for as long as it takes: what was painted is not lost to a full disk."""
        while True:
            try:
                return await self._database.run(function, *arguments, patience=60)
            except DatabaseError as error:
                logs.event(_log, "a job waits for the database", logging.WARNING, reason=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Let nothing that goes wrong end a loop that the others rely on."""
        while True:
            try:
                await loop()
            except DatabaseError as error:
                logs.event(_log, "jobs wait for the database", logging.WARNING, reason=str(error))
            except Exception:
                _log.exception("a mistake in %s", loop.__name__)
            await asyncio.sleep(_AGAIN_SECONDS)


async def _written(whole: Mapping[str, Any]) -> str:
    """A body as it is stored; it counts among the bytes that its request holds."""
    pieces = []
    async for piece in uploads.written(whole):
        visit.hold(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _to_paint(session: Session, claim: Claim, now: float) -> tuple[str | None, bool]:
    """The body of a job, None where it has ended; and whether its key is still good."""
    key = session.get(Key, claim.owner) if claim.owner else None
    return job_store.body_of(session, claim), not claim.owner or (
        key is not None and key.state(now) == "active"
    )


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
