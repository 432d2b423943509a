"""The jobs of a service as their clients know them: accepted, found, watched and cancelled."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from danqing.service import job_store, painting, sources, uploads, visit
from danqing.service.caller import Caller
from danqing.service.database import Database
from danqing.service.errors import invalid
from danqing.service.job_runner import Runner, ended, forever
from danqing.service.job_store import NewJob
from danqing.service.job_tables import Job, JobEvent, JobPicture, Status
from danqing.service.job_watchers import Watchers
from danqing.service.settings import Settings
from danqing.service.webhooks import DELAYS, Webhooks, new_secret
from danqing.service.wire import Endpoint

if TYPE_CHECKING:
    from danqing.service.state import Service

_SWEEP_SECONDS = 60.0


class Jobs:
    """The jobs that are in the database of a service.

    beat: see `Runner`. delays: see `Webhooks`.
    """

    def __init__(
        self, settings: Settings, database: Database, *, beat: float = 1.0, delays: Sequence[float] = DELAYS
    ) -> None:
        self._limits, self._database = settings.jobs, database
        self._watchers = Watchers()
        self._webhooks = Webhooks(settings.outbound, database, delays)
        self._runner = Runner(settings, database, self._watchers, self._webhooks, beat)
        self._loops: list[asyncio.Task[None]] = []
        self._service: Service | None = None

    async def start(self, service: "Service") -> None:
        """Take up the jobs that are in line."""
        self._service = service
        await self._runner.start(service)
        loops = (self._sweep, self._webhooks.run, self._hang_up)
        self._loops = [asyncio.create_task(forever(loop)) for loop in loops]

    async def stop(self) -> None:
        """Store what is painted, leave all else to the next server, and end."""
        await self._runner.stop()
        await ended(*self._loops)

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
        painting.check(self._service, endpoint, body, caller)  # before an address is called for it
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
        self._runner.wake()
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
        self._runner.cancel(job_id)
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

    async def _hang_up(self) -> None:
        """Let go of all who watch when the service stops: their clients come back to the next one."""
        assert self._service is not None
        await self._service.draining.wait()
        self._watchers.tell_all()
        await asyncio.Event().wait()

    async def _sweep(self) -> None:
        """Delete what is older than it is kept."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = time.time() - self._limits.keep * 86_400
            while await self._database.run(job_store.forget, oldest):
                pass


async def _written(whole: Mapping[str, Any]) -> str:
    """A body as it is stored; it counts among the bytes that its request holds."""
    pieces = []
    async for piece in uploads.written(whole):
        visit.hold(len(piece))
        pieces.append(piece)
    return "".join(pieces)
