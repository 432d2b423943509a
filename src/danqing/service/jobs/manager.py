"""The jobs of a service, as clients see them: accepted, found, watched and cancelled."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError

from danqing.service.access.accounts import Account
from danqing.service.access.caller import Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Scheduler
from danqing.service.errors import invalid
from danqing.service.gallery.manager import Gallery
from danqing.service.jobs import queries, store
from danqing.service.jobs.runner import (
    PREVIEWS,
    JobPreview,
    JobRunner,
    cancel_and_wait,
    run_forever,
)
from danqing.service.jobs.store import NewJob
from danqing.service.jobs.tables import Job, JobEvent, JobPicture, Status
from danqing.service.jobs.watchers import JobWatchers
from danqing.service.jobs.webhooks import DELAYS, Webhooks, new_secret
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.requests import archives, json_bodies
from danqing.service.requests.forms import Uploads
from danqing.service.requests.planner import Planner
from danqing.service.requests.schemas import Endpoint, JobEndpoint, RecognitionEndpoint
from danqing.service.requests.seeds import drawn_seed
from danqing.service.settings import Settings
from danqing.service.storage.database import Database

_SWEEP_SECONDS = 60.0
_POSITION_SECONDS = 2.0  # between two looks at how many jobs are before a queued one
_PICTURES = ("images", "input", "mask")
"""The fields of a body that hold pictures; the answer about a job leaves them out."""


@dataclass(frozen=True, slots=True)
class JobPosition:
    """The jobs, and their pictures, that are before a queued job."""

    jobs: int
    pictures: int


class JobManager:
    """The jobs in the database of a service.

    draining: set when the service stops.
    gallery: keeps the pictures of jobs; None for none.
    beat: see `JobRunner`.
    delays: see `Webhooks`.
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
        draining: asyncio.Event,
        gallery: Gallery | None = None,
        beat: float = 1.0,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._limits, self._request_limits, self._database = settings.jobs, settings.limits, database
        self._planner, self._draining = planner, draining
        self._watchers = JobWatchers()
        self._webhooks = Webhooks(settings.outbound, database, delays)
        self.runner = JobRunner(
            settings,
            database,
            planner=planner,
            scheduler=scheduler,
            encode_pool=encode_pool,
            keys=keys,
            watchers=self._watchers,
            webhooks=self._webhooks,
            draining=draining,
            gallery=gallery,
            beat=beat,
        )
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start to run queued jobs."""
        await self.runner.start()
        loops = (self._sweep, self._webhooks.run, self._release_watchers)
        self._loops = [asyncio.create_task(run_forever(loop)) for loop in loops]

    async def stop(self) -> None:
        """Store finished jobs, and leave all others to the next server."""
        await self.runner.stop()
        await cancel_and_wait(*self._loops)

    async def accept(
        self,
        endpoint: JobEndpoint,
        body: Mapping[str, Any],
        caller: Caller,
        held: HeldBytes,
        *,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        webhook_secret: str | None = None,
        previews: int = 0,
    ) -> tuple[Job, bool]:
        """Accept a request as a job.

        Return the job, and whether it is new.

        With an idempotency key it is accepted once. The request is checked as if it were painted now, and its
        pictures are charged. Raises ApiError.

        previews: unfinished pictures that its events may show, while it runs on this server.
        """
        for field in ("stream", "partial_images"):
            if body.get(field):
                message = f"A job has no {field}: GET /v1/jobs/ID/events reports its progress."
                raise invalid(message, f"body.{field}", "unsupported_parameter")
        owner = caller.owner
        asked = await store.fingerprint(
            {"endpoint": endpoint, "body": body, "webhook": [webhook, webhook_secret]}
        )
        if idempotency_key is not None:
            repeated = await self._database.run(store.find_repeated, owner, idempotency_key, asked)
            if repeated is not None:
                return repeated, False
        if webhook is not None:
            await self._webhooks.check(webhook, webhook_secret)
            webhook_secret = webhook_secret or new_secret()
        match endpoint:
            case "generations" | "edits" | "variations":
                whole, pictures = await self._whole(endpoint, body, caller, held)
            case _:
                whole, pictures = await self._whole_recognition(endpoint, body, caller, held)
        whole.pop("response_format", None)
        model = whole["model"]
        shown = {name: whole[name] for name in whole if name not in _PICTURES}
        if previews:
            whole[PREVIEWS] = previews
        new = NewJob(
            id=store.new_id(),
            owner=owner,
            caller=caller.name,
            endpoint=endpoint,
            model=model,
            pictures=pictures,
            body=await _serialise(whole, held),
            request=json.dumps(shown),
            fingerprint=asked,
            idempotency_key=idempotency_key,
            webhook=webhook,
            webhook_secret=webhook_secret,
        )
        now = time.time()
        job = await self._accept(new, caller.account, now)
        if job.id != new.id:
            return job, False
        caller.account.note_pictures(pictures, now)
        self.runner.wake()
        return job, True

    async def _whole(
        self, endpoint: Endpoint, body: Mapping[str, Any], caller: Caller, held: HeldBytes
    ) -> tuple[dict[str, Any], int]:
        """Check and complete the body of a job; return it, and how many pictures it requests.

        Everything that the pictures depend on is fixed then: after a crash, the job paints the same ones.
        """
        checked = await self._planner.check(endpoint, body, caller)
        sent = await self._planner.read_pictures(checked, held)
        model, pictures = checked.offer.name, checked.n
        if sent is not None and archives.is_archive(sent.images[0]):
            pictures *= self._count(sent)
            seed = drawn_seed(checked.fields)
        else:
            seed = (await self._planner.plan(checked, sent)).seed
        if sent is not None:
            body = await self._planner.embed(body, sent, held)
        fixed = {} if body.get("mix") else {"seed": seed}  # a mix has seeds of its own
        return {**body, "model": model, **fixed}, pictures

    async def _whole_recognition(
        self, endpoint: RecognitionEndpoint, body: Mapping[str, Any], caller: Caller, held: HeldBytes
    ) -> tuple[dict[str, Any], int]:
        """Check and complete the body of a job that recognizes pictures, as `_whole`."""
        planner = self._planner.recognition
        checked = planner.check(endpoint, body, caller)
        queries = await planner.read(checked, held)
        plan = await planner.plan(checked, queries)
        return {**await planner.embed(body, queries, held), "model": plan.offer.name}, plan.n

    def _count(self, sent: Uploads) -> int:
        """Count the pictures of a zip; raises ApiError if it, or that of the masks, cannot be used."""
        if sent.mask is not None and archives.is_archive(sent.mask):
            archives.contents(sent.mask, self._request_limits, "mask")
        return len(archives.contents(sent.images[0], self._request_limits).pictures)

    async def _accept(self, new: NewJob, account: Account, now: float) -> Job:
        arguments = new, self._limits, now, account.quota, account.unwritten_images()
        try:
            return await self._database.run(store.accept, *arguments)
        except IntegrityError:  # the same idempotency key came twice at the same moment
            return await self._database.run(store.accept, *arguments)

    async def find(self, owner: str, job_id: str) -> Job:
        """Return a job of this owner; raises ApiError 404."""
        return await self._database.run(queries.find, owner, job_id)

    async def page(
        self, owner: str, *, limit: int, after: str | None = None, status: Status | None = None
    ) -> tuple[list[Job], bool]:
        """Return an owner's jobs, the latest first, and whether there are more.

        after: the id of the job before the first one.
        """
        return await self._database.run(queries.page, owner, limit, after, status)

    async def picture(self, owner: str, job_id: str, number: int) -> JobPicture:
        """Return a picture of a job of this owner; raises ApiError 404."""
        return await self._database.run(queries.picture, owner, job_id, number)

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """Cancel a job, unless it has ended.

        One that was never started is refunded.
        """
        job, untouched = await self._database.run(store.cancel, caller.owner, job_id, time.time())
        if untouched:
            caller.account.note_pictures(-job.pictures, job.created)
        self.runner.cancel(job_id)
        return job

    async def events(
        self, owner: str, job_id: str, after: int
    ) -> AsyncIterator[JobEvent | JobPreview | JobPosition]:
        """Yield the events of a job after number `after`.

        Between them come its position while it is queued, and unfinished pictures while it runs here. It ends
        with the job, or when the service stops. Raises ApiError 404.
        """
        position: JobPosition | None = None
        shown = 0
        with self._watchers.watch(job_id) as changed:
            while not self._draining.is_set():
                changed.clear()
                events, finished = await self._database.run(queries.events_after, owner, job_id, after)
                for event in events:
                    after = event.number
                    yield event
                if finished:
                    return
                preview = self.runner.preview(job_id)
                if preview is not None and preview.index >= shown:
                    shown = preview.index + 1
                    yield preview
                ahead = await self._database.run(queries.ahead_of, owner, job_id)
                if ahead is not None and position != (now := JobPosition(*ahead)):
                    position = now
                    yield now
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if ahead is None else _POSITION_SECONDS):
                        await changed.wait()

    async def _release_watchers(self) -> None:
        """Wake all watchers when the service stops: their clients reconnect to the next server."""
        await self._draining.wait()
        self._watchers.wake_all()
        await asyncio.Event().wait()

    async def _sweep(self) -> None:
        """Delete expired jobs."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = time.time() - self._limits.keep * 86_400
            while await self._database.run(store.forget, oldest):
                pass


async def _serialise(whole: Mapping[str, Any], held: HeldBytes) -> str:
    """Return a body as it is stored; it counts among the bytes that its request holds."""
    pieces = []
    async for piece in json_bodies.write_json(whole):
        held.hold(len(piece))
        pieces.append(piece)
    return "".join(pieces)
