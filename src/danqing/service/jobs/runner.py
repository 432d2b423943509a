"""Runs jobs: claims them in the database, has them painted, and stores the results."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy.orm import Session

from danqing.errors import DanqingError
from danqing.service.access.caller import RIGHTS, Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.keys import Key, Keys
from danqing.service.engine.orders import (
    Order,
    OrderCancelledError,
    Outcome,
    Painted,
    Preview,
    Priority,
    Recognized,
    StepProgress,
)
from danqing.service.engine.scheduler import Scheduler
from danqing.service.errors import ApiError, internal
from danqing.service.failures import from_danqing
from danqing.service.gallery.manager import Gallery
from danqing.service.gallery.store import NewPicture
from danqing.service.jobs import queries, store
from danqing.service.jobs.archive_work import ArchiveWork
from danqing.service.jobs.store import Claim
from danqing.service.jobs.watchers import JobWatchers
from danqing.service.jobs.webhooks import Webhooks
from danqing.service.observability import logs
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.encoding import MEDIA_TYPES
from danqing.service.requests import answers, archives, json_bodies, recognition
from danqing.service.requests.forms import Uploads
from danqing.service.requests.planner import CheckedRequest, PlannedRequest, Planner
from danqing.service.requests.recognition import PlannedRecognition
from danqing.service.settings import Settings
from danqing.service.storage.database import Database, DatabaseError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PREVIEWS = "previews"
"""The field of a stored body that says how many previews are wanted; no request has it."""
_RETRY_SECONDS = 1.0
_SHORTEST_DELAY, _LONGEST_DELAY = 1.0, 300.0
"""Seconds until a job that cannot be painted now is retried; doubled each time."""
_PLANNED_AT_ONCE = 2  # bodies in memory at the same time; each may hold large pictures

_log = logging.getLogger("danqing.jobs")


@dataclasses.dataclass(frozen=True, slots=True)
class JobPreview:
    """Unfinished pictures of a job, as files.

    index: how many there were before.
    """

    index: int
    files: list[bytes]


@dataclasses.dataclass(eq=False, slots=True)
class _RunningJob:
    """A job that runs here.

    steps: done, and all. kept: its pictures for the gallery. preview: its latest unfinished pictures.
    """

    claim: Claim
    steps: tuple[int, int] = (0, 0)
    painted: bool = False
    storing: bool = False
    kept: list[NewPicture] = dataclasses.field(default_factory=list)
    preview: JobPreview | None = None
    task: asyncio.Task[None] | None = None


class JobRunner:
    """Runs the jobs whose leases this process holds.

    beat: seconds between two renewals of its leases.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        planner: Planner,
        scheduler: Scheduler,
        encode_pool: EncodePool,
        keys: Keys,
        watchers: JobWatchers,
        webhooks: Webhooks,
        draining: asyncio.Event,
        gallery: Gallery | None,
        beat: float,
    ) -> None:
        self._planner, self._scheduler, self._encode_pool, self._keys = planner, scheduler, encode_pool, keys
        self._draining = draining
        self._settings, self._limits, self._database = settings, settings.jobs, database
        self._watchers, self._webhooks, self._gallery = watchers, webhooks, gallery
        self._name = f"run_{uuid.uuid4().hex}"
        self._beat_seconds = min(beat, self._limits.lease / 3)
        self._running: dict[str, _RunningJob] = {}
        self._started_claims: list[Claim] = []
        self._begins = asyncio.Event()
        self._looked_at, self._patient_until = math.inf, -math.inf
        self._news = asyncio.Event()
        self._planning = asyncio.Semaphore(_PLANNED_AT_ONCE)
        self._loops: list[asyncio.Task[None]] = []
        self._dispatcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to run queued jobs."""
        self._dispatcher = asyncio.create_task(run_forever(self._dispatch))
        self._loops = [asyncio.create_task(run_forever(loop)) for loop in (self._beat, self._store_started)]

    async def stop(self) -> None:
        """Store finished jobs, and leave all others to the next server."""
        if self._dispatcher is not None:
            await cancel_and_wait(self._dispatcher)
        painting = [one for one in self._running.values() if not one.storing]
        await cancel_and_wait(*(one.task for one in painting if one.task))
        with contextlib.suppress(DatabaseError):  # otherwise their leases expire
            claims = [one.claim for one in painting]
            await self._database.run(store.put_back, claims, time.time())
        storing = [one.task for one in self._running.values() if one.task]
        if storing:
            await asyncio.wait(storing, timeout=self._limits.lease)
        await cancel_and_wait(*self._loops, *storing)

    @property
    def running(self) -> tuple[str, ...]:
        """Return the ids of the jobs that run here."""
        return tuple(self._running)

    def note_progress(self, job_id: str, done: int, total: int) -> None:
        """Set the progress of a job that runs here, in steps.

        It is reported with the next beat.
        """
        if (running := self._running.get(job_id)) is not None:
            running.steps = (done, total)

    def preview(self, job_id: str) -> JobPreview | None:
        """Return the latest unfinished pictures of a job that runs here."""
        running = self._running.get(job_id)
        return None if running is None else running.preview

    def wake(self) -> None:
        """Claim queued jobs now."""
        self._news.set()

    def cancel(self, job_id: str) -> None:
        """Stop running a cancelled job, if it runs here."""
        if (running := self._running.get(job_id)) is not None:
            self._abandon(running)
        self.changed(job_id)

    def changed(self, job_id: str) -> None:
        """Wake the watchers of a changed job."""
        self._watchers.wake(job_id)
        self._webhooks.wake()

    async def _dispatch(self) -> None:
        """Claim the next jobs whenever there is room for them."""
        while not self._draining.is_set():
            self._news.clear()
            claims = [one.claim for one in self._running.values()]
            # One batch is combined while another is painted, at each worker.
            most = 2 * self._settings.engine.batch * len(self._scheduler.pool)
            room = most - sum(claim.pictures for claim in claims)
            space = self._settings.limits.bytes_in_flight - sum(claim.size for claim in claims)
            taken: list[Claim] = []
            if room > 0:
                offers = self._scheduler.offers.values()
                models = [offer.name for offer in offers if offer.fault is None]
                here, lease = list(self._running), self._limits.lease
                taken = await self._database.run(
                    store.claim, self._name, models, room, lease, time.time(), here, space
                )
                for claim in taken:
                    running = self._running[claim.id] = _RunningJob(claim)
                    running.task = asyncio.create_task(self._run(running))
                    self.changed(claim.id)
            if not taken:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._beat_seconds):
                        await self._news.wait()
        await asyncio.Event().wait()

    async def _beat(self) -> None:
        """Renew leases, report progress, take over from silent servers, and notice changes by others."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            running = dict(self._running)
            steps = {job_id: one.steps for job_id, one in running.items()}
            held, taken_over, numbers = await self._database.run(self._look, steps, self._watchers.jobs)
            self._looked_at = time.time()
            for job_id in steps.keys() - held:
                self._abandon(running[job_id])
            for job_id, number in numbers.items():
                self._watchers.wake_for(job_id, number)
            if taken_over:
                logs.event(_log, "jobs of a silent server are taken over", logging.WARNING, jobs=taken_over)
                self._news.set()
                self._webhooks.wake()

    def _look(
        self, session: Session, steps: Mapping[str, tuple[int, int]], watched: Sequence[str]
    ) -> tuple[set[str], int, dict[str, int]]:
        now, lease = time.time(), self._limits.lease
        held = store.renew(session, self._name, steps, lease, now) if steps else set()
        if now - self._looked_at > lease:  # the database was away: others could not renew theirs either
            self._patient_until = now + lease
        taken_over = store.reclaim(session, self._limits.attempts, now) if now > self._patient_until else 0
        return held, taken_over, queries.last_events(session, watched) if watched else {}

    async def _store_started(self) -> None:
        """Store which jobs are being painted, those of a batch in one transaction."""
        while True:
            await self._begins.wait()
            self._begins.clear()
            begun, self._started_claims = self._started_claims, []
            await self._database.run(store.begin, begun, time.time())

    def _begin(self, claim: Claim) -> None:
        self._started_claims.append(claim)
        self._begins.set()

    def _abandon(self, running: _RunningJob) -> None:
        """Stop running a job that is no longer ours; the database rejects its result."""
        if running.task is not None and not running.storing:
            running.task.cancel()

    async def _run(self, running: _RunningJob) -> None:
        claim = running.claim
        try:
            change, refunded = await self._outcome(running)
            running.storing = True
            if not await self._run_until_stored(change, time.time()):
                self._log_loss(running)
            elif refunded is not None:
                refunded.account.note_pictures(-claim.pictures, claim.charged)
        finally:
            del self._running[claim.id]
            self.changed(claim.id)
            self._news.set()

    def _log_loss(self, running: _RunningJob) -> None:
        what = "a painted job had been cancelled, or taken over by another server"
        logs.event(
            _log, what if running.painted else "a job was taken over or cancelled", job=running.claim.id
        )

    async def _outcome(self, running: _RunningJob) -> tuple[Callable[[Session, float], bool], Caller | None]:
        """Paint a job; return the transaction that stores its outcome, and whom it refunds."""
        claim = running.claim
        try:
            answer, files = await self._painted(running)
            running.painted = True
            kept, running.kept = running.kept, []
            return lambda session, now: self._succeed(session, claim, answer, files, kept, now), None
        except (ApiError, DanqingError) as error:
            failure = error if isinstance(error, ApiError) else from_danqing(error)
        except Exception:
            _log.exception("the job %s failed", claim.id)
            failure = internal()
        if failure.status == 503:  # the scheduler stops, or the model cannot be loaded at present
            delay = min(_LONGEST_DELAY, _SHORTEST_DELAY * 2.0 ** min(claim.attempt - 1, 10))
            return lambda session, now: store.put_back(session, [claim], now, delay), None
        caller = self._keys.of(claim.owner)
        return lambda session, now: store.fail(session, claim, failure, now), caller

    def _succeed(
        self,
        session: Session,
        claim: Claim,
        answer: Mapping[str, Any],
        files: Sequence[tuple[str, bytes]],
        kept: Sequence[NewPicture],
        now: float,
    ) -> bool:
        """Store a job's pictures, and keep them in the gallery, in one transaction."""
        if not store.succeed(session, claim, answer, files, now):
            return False
        if self._gallery is not None:
            self._gallery.insert(session, claim.owner, kept, now)
        return True

    async def _painted(self, running: _RunningJob) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        """Return the answer of a job, and its pictures as media type and content."""
        claim = running.claim
        async with self._planning:
            plan = await self._planned(claim)
        if isinstance(plan, PlannedRecognition):
            return await self._recognized(claim, plan)
        if isinstance(plan, tuple):
            work = ArchiveWork(
                claim,
                self._settings.limits,
                self._planner,
                paint=lambda plan: self._files(claim, plan, lambda done, total: None),
                on_progress=functools.partial(self.note_progress, claim.id),
                transaction=self._run_until_stored,
            )
            return await work.run(*plan)
        on_preview = functools.partial(self._show, running, plan)
        on_step = functools.partial(self.note_progress, claim.id)
        files = await self._files(claim, plan, on_step, on_preview)
        if self._gallery is not None:
            running.kept = await self._gallery.prepare(claim.owner, files, plan.record, job=claim.id)
        revised = answers.revision(plan)
        data = [{"url": f"/v1/jobs/{claim.id}/images/{i}", **revised} for i in range(len(files))]
        return answers.describe(plan, data), [(MEDIA_TYPES[plan.output.format], file) for file in files]

    async def _planned(
        self, claim: Claim
    ) -> PlannedRequest | PlannedRecognition | tuple[CheckedRequest, Uploads]:
        """Plan the request of a job; that of a zip, whose pictures are planned one by one, is checked."""
        body, good = await self._run_until_stored(_claimed_body, claim, time.time())
        if body is None:
            raise OrderCancelledError("The job has ended.")
        if not good:
            message = "The key of this job was revoked or expired before the job was painted."
            raise ApiError(401, message, code="revoked_api_key")
        # The scopes of the key were checked when the job was accepted.
        caller = Caller(claim.owner or None, claim.caller, frozenset(RIGHTS))
        held = HeldBytes.unlimited()  # `claim` limits the bytes of all bodies that are taken
        asked = await json_bodies.read_json(body.encode(), self._settings.limits, held)
        del body
        previews = asked.pop(PREVIEWS, 0)
        match claim.endpoint:
            case "generations" | "edits" | "variations":
                endpoint = claim.endpoint
            case recognition_endpoint:
                planner = self._planner.recognition
                return await planner.check_and_plan(recognition_endpoint, asked, caller, held)
        checked = await self._planner.check(endpoint, asked, caller)
        sent = await self._planner.read_pictures(checked, held)
        del asked
        if sent is not None and archives.is_archive(sent.images[0]):
            return checked, sent
        plan = await self._planner.plan(checked, sent)
        if plan.offer.steps and plan.order.whole is None:
            plan = dataclasses.replace(plan, order=dataclasses.replace(plan.order, previews=previews))
        return plan

    async def _show(self, running: _RunningJob, plan: PlannedRequest, preview: Preview) -> None:
        """Encode unfinished pictures for those who watch the job, unless a filter blocks one of them."""
        output, pool = plan.preview_output, self._encode_pool
        with contextlib.suppress(ApiError):
            files = await answers.encode(
                pool, plan, preview.pixels, output, what="preview", priority=Priority.JOB
            )
            running.preview = JobPreview(preview.index, files)
            self._watchers.wake(running.claim.id)

    async def _files(
        self,
        claim: Claim,
        plan: PlannedRequest,
        on_step: Callable[[int, int], None],
        on_preview: Callable[[Preview], Awaitable[None]] | None = None,
    ) -> list[bytes]:
        """Return the files of a planned request, when they are painted."""
        painted = await self._outcome_of(claim, plan.order, on_step, on_preview)
        assert isinstance(painted, Painted)
        async with self._encode_pool.job_turns.turn("", plan.work):  # first come, first served
            return await answers.encode(
                self._encode_pool, plan, painted.pixels, plan.output, priority=Priority.JOB
            )

    async def _recognized(
        self, claim: Claim, plan: PlannedRecognition
    ) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        """Return the answer of a job that recognizes pictures, and its files as media type and content."""
        on_step = functools.partial(self.note_progress, claim.id)
        found = await self._outcome_of(claim, plan.order, on_step)
        assert isinstance(found, Recognized)
        files = [(MEDIA_TYPES["png"], one) for one in recognition.files_of(plan, found.findings)]
        data = [{"url": f"/v1/jobs/{claim.id}/images/{i}"} for i in range(len(files))]
        return recognition.describe(plan, found.findings, data), files

    async def _outcome_of(
        self,
        claim: Claim,
        order: Order,
        on_step: Callable[[int, int], None],
        on_preview: Callable[[Preview], Awaitable[None]] | None = None,
    ) -> Outcome:
        """Run the order of a job.

        on_step: called with its progress. on_preview: called with unfinished pictures.
        """
        outcome: Outcome | None = None
        order = dataclasses.replace(order, priority=Priority.JOB, seconds=self._limits.seconds)
        ticket = self._scheduler.submit(order)
        ticket.on_begin = functools.partial(self._begin, claim)
        async for event in ticket:
            match event:
                case StepProgress(done, total):
                    on_step(done, total)
                case Preview() if on_preview is not None:
                    await on_preview(event)
                case Painted() | Recognized():
                    outcome = event
        assert outcome is not None
        return outcome

    async def _run_until_stored(self, function: Callable[[Session, *Ts], T], *arguments: *Ts) -> T:
        """Call `Database.run` until it succeeds: painted pictures are not lost to a full disk."""
        while True:
            try:
                return await self._database.run(function, *arguments, patience=60)
            except DatabaseError as error:
                logs.event(_log, "a job waits for the database", logging.WARNING, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)


def _claimed_body(session: Session, claim: Claim, now: float) -> tuple[str | None, bool]:
    """Return the body of a job, None if it has ended; and whether its key is still valid."""
    key = session.get(Key, claim.owner) if claim.owner else None
    return store.body_of(session, claim), not claim.owner or (key is not None and key.state(now) == "active")


async def run_forever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop again whenever it fails: other parts rely on it."""
    while True:
        try:
            await loop()
        except DatabaseError as error:
            logs.event(_log, "jobs wait for the database", logging.WARNING, reason=str(error))
        except Exception:
            _log.exception("a bug in %s", loop.__name__)
        await asyncio.sleep(_RETRY_SECONDS)


async def cancel_and_wait(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait until they are done."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
