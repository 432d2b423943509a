"""The jobs of a service as their clients know them: accepted, found, watched and cancelled."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError

from danqing.service.access.caller import Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Engine
from danqing.service.errors import invalid
from danqing.service.jobs import store as job_store
from danqing.service.jobs.runner import Runner, ended, forever
from danqing.service.jobs.store import NewJob
from danqing.service.jobs.tables import Job, JobEvent, JobPicture, Status
from danqing.service.jobs.watchers import Watchers
from danqing.service.jobs.webhooks import DELAYS, Webhooks, new_secret
from danqing.service.pictures.encode_pool import Pictures
from danqing.service.requests import json_bodies as uploads
from danqing.service.requests.planner import Planner
from danqing.service.requests.schemas import Endpoint
from danqing.service.settings import Settings
from danqing.service.storage.database import Database

_SWEEP_SECONDS = 60.0


class Jobs:
    """The jobs that are in the database of a service.

    draining: set when the service stops. beat: see `Runner`. delays: see `Webhooks`.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        planner: Planner,
        engine: Engine,
        pictures: Pictures,
        keys: Keys,
        draining: asyncio.Event,
        beat: float = 1.0,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._limits, self._database = settings.jobs, database
        self._planner, self._draining = planner, draining
        self._watchers = Watchers()
        self._webhooks = Webhooks(settings.outbound, database, delays)
        self._runner = Runner(
            settings,
            database,
            planner=planner,
            engine=engine,
            pictures=pictures,
            keys=keys,
            watchers=self._watchers,
            webhooks=self._webhooks,
            draining=draining,
            beat=beat,
        )
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up the jobs that are in line."""
        await self._runner.start()
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
        held: HeldBytes,
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
        owner = caller.owner
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
        checked = self._planner.check(endpoint, body, caller)
        sent = await self._planner.read_pictures(checked, held)
        plan = await self._planner.plan(checked, sent)
        model, seed, pictures = plan.offer.name, plan.seed, plan.n
        if sent is not None:
            body = await self._planner.embed(body, sent, held)
        del checked, plan, sent  # and the pictures in them
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
            body=await _written(whole, held),
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
        job, untouched = await self._database.run(job_store.cancel, caller.owner, job_id, time.time())
        if untouched:
            caller.account.refund(job.pictures, job.created)
        self._runner.cancel(job_id)
        return job

    async def events(self, owner: str, job_id: str, after: int) -> AsyncIterator[JobEvent]:
        """What happened to a job after its event number `after`, and what happens from now on until it ends,
        or the service does. Raises ApiError 404.
        """
        with self._watchers.watch(job_id) as changed:
            while not self._draining.is_set():
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
        await self._draining.wait()
        self._watchers.tell_all()
        await asyncio.Event().wait()

    async def _sweep(self) -> None:
        """Delete what is older than it is kept."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = time.time() - self._limits.keep * 86_400
            while await self._database.run(job_store.forget, oldest):
                pass


async def _written(whole: Mapping[str, Any], held: HeldBytes) -> str:
    """A body as it is stored; it counts among the bytes that its request holds."""
    pieces = []
    async for piece in uploads.written(whole):
        held.hold(len(piece))
        pieces.append(piece)
    return "".join(pieces)
