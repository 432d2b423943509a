"""What a client gets for its plan: a whole answer, or events as the pictures come to be."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any

from fastapi import Request, Response

from danqing.errors import DanqingError
from danqing.service import sse, tracing
from danqing.service.caller import Caller
from danqing.service.errors import from_danqing, internal
from danqing.service.guard import note
from danqing.service.orders import (
    DeadlinePassedError,
    Event,
    OrderCancelledError,
    Painted,
    Pixels,
    Preview,
)
from danqing.service.painting import Plan
from danqing.service.pictures import Room, filled
from danqing.service.state import service_of
from danqing.service.ticket import Ticket

_log = logging.getLogger("danqing.service")
_PATIENCE = 5.0  # seconds that the status of a stream waits for a first sign of what comes


async def respond(request: Request, caller: Caller, plan: Plan) -> Response:
    """Have a plan painted, and answer as its client wishes. The painting stops when the client leaves."""
    service = service_of(request)
    note(request, model=plan.offer.name, images=plan.n, user=plan.fields.identifier)
    room = service.pictures.room(plan.order.owner, plan.work)
    try:
        charged = caller.account.charge(plan.n)
        try:
            ticket = service.engine.submit(plan.order)
            if plan.streams:
                return await _stream(request, caller, plan, ticket, charged, room)
            body = await _finished(request, plan, ticket)
        except Exception as error:
            _refund(caller, plan, charged, error)
            raise
    except BaseException:
        room.leave()
        raise
    room.leave()
    return Response(body, media_type="application/json")


def _refund(caller: Caller, plan: Plan, charged: float, error: Exception) -> None:
    """Give back what was not painted, unless the client left: the work was begun for it."""
    if not isinstance(error, OrderCancelledError):
        caller.account.refund(plan.n, charged)


async def _finished(request: Request, plan: Plan, ticket: Ticket) -> bytes:
    """The body of the answer, unless its time is over or the client leaves before it is made."""
    settings, left = service_of(request).settings, False

    def leave() -> None:
        nonlocal left
        left = True
        ticket.cancel()
        limit.reschedule(0)

    try:
        async with asyncio.timeout(plan.order.seconds) as limit, sse.watching(request.receive, leave):
            painted = await ticket.painted()
            _tell(request, plan, painted)
            return await plan.finish(painted, lambda: settings.public_url or str(request.base_url))
    except TimeoutError:
        if left:
            raise OrderCancelledError("The client left.") from None
        raise _late(plan) from None
    finally:
        ticket.cancel()


def _late(plan: Plan) -> DeadlinePassedError:
    seconds = plan.order.seconds
    return DeadlinePassedError(f"The pictures were not ready within {seconds:g} seconds: ask for fewer.")


def _tell(request: Request, plan: Plan, painted: Painted) -> None:
    """Let the log and the trace of the request know how long the painting took."""
    note(request, queue=round(painted.queue_seconds, 6), compute=round(painted.compute_seconds, 6))
    tracing.painted(plan.offer.name, plan.n, painted.queue_seconds, painted.compute_seconds)


async def _stream(
    request: Request, caller: Caller, plan: Plan, ticket: Ticket, charged: float, room: Room
) -> Response:
    """Events; an answer with a status of its own where the order fails before there is anything to tell."""
    events = aiter(ticket)
    first = asyncio.create_task(_awaited(anext(events)))
    try:
        async with sse.watching(request.receive, ticket.cancel):
            await asyncio.wait((first,), timeout=_PATIENCE)
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        ticket.cancel()
        raise

    def end() -> None:
        ticket.cancel()
        room.leave()

    return sse.EventStream(_told(request, caller, plan, charged, _after(first, events)), on_end=end)


async def _told(
    request: Request, caller: Caller, plan: Plan, charged: float, events: AsyncIterator[Event]
) -> AsyncGenerator[bytes, None]:
    """The documented events of a stream. With several pictures, each event says in `image_index` of which."""
    try:
        async for event in events:
            if isinstance(event, Preview):
                for number, file in enumerate(await _packed(plan, event.pixels)):
                    yield _event(plan, "partial_image", number, file, partial_image_index=event.index)
            elif isinstance(event, Painted):
                _tell(request, plan, event)
                revised = {} if plan.revised is None else {"revised_prompt": plan.revised}
                for number, file in enumerate(await _packed(plan, event.pixels)):
                    told = {**revised, "usage": plan.usage(number), **plan.origin()}
                    yield _event(plan, "completed", number, file, **told)
    except DanqingError as error:
        _refund(caller, plan, charged, error)
        yield sse.event("error", from_danqing(error).body())
    except Exception as error:
        _refund(caller, plan, charged, error)
        _log.exception("a stream failed")
        yield sse.event("error", internal().body())


async def _after(first: asyncio.Task[Event], rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield await first
    async for event in rest:
        yield event


async def _packed(plan: Plan, pixels: Pixels) -> list[bytes]:
    try:
        async with asyncio.timeout(plan.order.seconds):
            return await plan.pictures.pack(await plan.encode(pixels))
    except TimeoutError:
        raise _late(plan) from None


def _event(plan: Plan, kind: str, number: int, packed: bytes, **further: Any) -> bytes:
    name = f"{'image_edit' if plan.endpoint == 'edits' else 'image_generation'}.{kind}"
    data = {"type": name, "b64_json": "", "created_at": int(time.time()), **plan.facts(), **further}
    if plan.n > 1:
        data["image_index"] = number
    return filled(sse.event(name, data), [packed])


async def _awaited(event: Awaitable[Event]) -> Event:
    return await event
