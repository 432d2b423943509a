"""What a client gets for its plan: a whole answer, or events as the pictures come to be."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import Any

from fastapi import Request, Response

from danqing.errors import DanqingError
from danqing.service.access.caller import Caller
from danqing.service.engine.orders import (
    DeadlinePassedError,
    Event,
    OrderCancelledError,
    Painted,
    Pixels,
    Preview,
)
from danqing.service.engine.pending_order import Ticket
from danqing.service.errors import internal
from danqing.service.failures import from_danqing
from danqing.service.http import sse
from danqing.service.http.gate import note
from danqing.service.json_output import encode_json
from danqing.service.observability import tracing
from danqing.service.parts import service_of
from danqing.service.pictures.encode_pool import Pictures, Room, filled
from danqing.service.requests import answers
from danqing.service.requests.planner import PlannedRequest

_log = logging.getLogger("danqing.service")
_PATIENCE = 5.0  # seconds that the status of a stream waits for a first sign of what comes


async def respond(request: Request, caller: Caller, plan: PlannedRequest) -> Response:
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


def _refund(caller: Caller, plan: PlannedRequest, charged: float, error: Exception) -> None:
    """Give back what was not painted, unless the client left: the work was begun for it."""
    if not isinstance(error, OrderCancelledError):
        caller.account.refund(plan.n, charged)


async def _finished(request: Request, plan: PlannedRequest, ticket: Ticket) -> bytes:
    """The body of the answer, unless its time is over or the client leaves before it is made."""
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        ticket.cancel()
        limit.reschedule(0)

    try:
        async with asyncio.timeout(plan.order.seconds) as limit, sse.watching(request.receive, leave):
            painted = await ticket.painted()
            _tell(request, plan, painted)
            return await _body(request, plan, painted)
    except TimeoutError:
        if left:
            raise OrderCancelledError("The client left.") from None
        raise _late(plan) from None
    finally:
        ticket.cancel()


async def _body(request: Request, plan: PlannedRequest, painted: Painted) -> bytes:
    """The body of the answer, in JSON."""
    service, packed = service_of(request), list[bytes]()
    files = await _encode(service.pictures, plan, painted.pixels)
    data: list[Mapping[str, Any]]
    if plan.fields.response_format == "url":
        names = await service.pictures.keep(files, plan.look.format, plan.order.owner)
        address = (service.settings.public_url or str(request.base_url)).rstrip("/")
        data = [{"url": f"{address}/v1/pictures/{name}"} for name in names]
    else:
        packed = await service.pictures.pack(files)
        data = [{"b64_json": ""} for _ in packed]
    revised = answers.revision(plan)
    body = answers.describe(plan, [{**picture, **revised} for picture in data])
    return filled(encode_json(body), packed)


async def _encode(pictures: Pictures, plan: PlannedRequest, pixels: Pixels) -> list[bytes]:
    """Painted pictures `[n, h, w, c]`, finished or not, as files in the size and format asked for."""
    return await pictures.render(pixels, plan.look, plan.compose, plan.order.owner)


def _late(plan: PlannedRequest) -> DeadlinePassedError:
    seconds = plan.order.seconds
    return DeadlinePassedError(f"The pictures were not ready within {seconds:g} seconds: ask for fewer.")


def _tell(request: Request, plan: PlannedRequest, painted: Painted) -> None:
    """Let the log and the trace of the request know how long the painting took."""
    note(request, queue=round(painted.queue_seconds, 6), compute=round(painted.compute_seconds, 6))
    tracing.painted(plan.offer.name, plan.n, painted.queue_seconds, painted.compute_seconds)


async def _stream(
    request: Request, caller: Caller, plan: PlannedRequest, ticket: Ticket, charged: float, room: Room
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
    request: Request, caller: Caller, plan: PlannedRequest, charged: float, events: AsyncIterator[Event]
) -> AsyncGenerator[bytes, None]:
    """The documented events of a stream. With several pictures, each event says in `image_index` of which."""
    pictures = service_of(request).pictures
    try:
        async for event in events:
            if isinstance(event, Preview):
                for number, file in enumerate(await _packed(pictures, plan, event.pixels)):
                    yield _event(plan, "partial_image", number, file, partial_image_index=event.index)
            elif isinstance(event, Painted):
                _tell(request, plan, event)
                told = {**answers.revision(plan), **answers.origin(plan)}
                for number, file in enumerate(await _packed(pictures, plan, event.pixels)):
                    told["usage"] = answers.usage(plan, number)
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


async def _packed(pictures: Pictures, plan: PlannedRequest, pixels: Pixels) -> list[bytes]:
    try:
        async with asyncio.timeout(plan.order.seconds):
            return await pictures.pack(await _encode(pictures, plan, pixels))
    except TimeoutError:
        raise _late(plan) from None


def _event(plan: PlannedRequest, kind: str, number: int, packed: bytes, **further: Any) -> bytes:
    name = f"{'image_edit' if plan.endpoint == 'edits' else 'image_generation'}.{kind}"
    data = {
        "type": name,
        "b64_json": "",
        "created_at": int(time.time()),
        **answers.image_facts(plan),
        **further,
    }
    if plan.n > 1:
        data["image_index"] = number
    return filled(sse.event(name, data), [packed])


async def _awaited(event: Awaitable[Event]) -> Event:
    return await event
