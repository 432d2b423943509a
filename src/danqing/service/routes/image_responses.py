"""Answers to planned requests: a whole body, or a stream of events while pictures are painted."""

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
    Painting,
    Preview,
)
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.errors import internal
from danqing.service.failures import from_danqing
from danqing.service.http import sse
from danqing.service.http.gate import log_facts
from danqing.service.json_output import encode_json
from danqing.service.observability import tracing
from danqing.service.parts import service_of
from danqing.service.pictures.encode_pool import EncodePool, EncodeReservation
from danqing.service.pictures.encoding import fill_pictures
from danqing.service.requests import answers
from danqing.service.requests.planner import PlannedRequest

_log = logging.getLogger("danqing.service")
_PATIENCE = 5.0  # seconds that the status of a stream waits for its first event


async def respond(request: Request, caller: Caller, plan: PlannedRequest) -> Response:
    """Paint a planned request and answer it, whole or as a stream.

    Stops when the client leaves.
    """
    service = service_of(request)
    log_facts(request, model=plan.offer.name, images=plan.n, user=plan.fields.identifier)
    reserved = service.encode_pool.reserve(plan.order.owner, plan.work)
    try:
        charged = caller.account.charge(plan.n)
        try:
            pending = service.scheduler.submit(plan.order)
            if plan.streams:
                return await _stream(request, caller, plan, charged, pending, reserved)
            body = await _finished(request, plan, pending)
        except Exception as error:
            _refund(caller, plan, charged, error)
            raise
    except BaseException:
        reserved.release()
        raise
    reserved.release()
    return Response(body, media_type="application/json")


def _refund(caller: Caller, plan: PlannedRequest, charged: float, error: Exception) -> None:
    """Refund pictures that were not painted, unless the client left: the work had begun for it."""
    if not isinstance(error, OrderCancelledError):
        caller.account.refund(plan.n, charged)


async def _finished(request: Request, plan: PlannedRequest, pending: PendingOrder) -> bytes:
    """Return the body of the answer, unless it takes too long or the client leaves."""
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        pending.cancel()
        limit.reschedule(0)

    try:
        async with asyncio.timeout(plan.order.seconds) as limit, sse.watching(request.receive, leave):
            painted = await pending.painted()
            _record_times(request, plan, painted)
            return await _body(request, plan, painted)
    except TimeoutError:
        if left:
            raise OrderCancelledError("The client left.") from None
        raise _late(plan) from None
    finally:
        pending.cancel()


async def _body(request: Request, plan: PlannedRequest, painted: Painted) -> bytes:
    """Return the body of the answer, in JSON."""
    service, packed = service_of(request), list[bytes]()
    files = await _encode(service.encode_pool, plan, painted.pixels)
    data: list[Mapping[str, Any]]
    if plan.fields.response_format == "url":
        names = await service.hosted.store(files, plan.output.format, plan.order.owner)
        address = (service.settings.public_url or str(request.base_url)).rstrip("/")
        data = [{"url": f"{address}/v1/pictures/{name}"} for name in names]
    else:
        packed = await service.encode_pool.to_base64(files)
        data = [{"b64_json": ""} for _ in packed]
    revised = answers.revision(plan)
    body = answers.describe(plan, [{**picture, **revised} for picture in data])
    return fill_pictures(encode_json(body), packed)


async def _encode(pool: EncodePool, plan: PlannedRequest, pixels: Painting) -> list[bytes]:
    """Encode painted pictures `[n, h, w, c]`, finished or not, in the requested size and format."""
    return await pool.encode(pixels, plan.output, plan.compose, plan.order.owner)


def _late(plan: PlannedRequest) -> DeadlinePassedError:
    seconds = plan.order.seconds
    return DeadlinePassedError(f"The pictures were not ready within {seconds:g} seconds: request fewer.")


def _record_times(request: Request, plan: PlannedRequest, painted: Painted) -> None:
    """Add to the log and the trace of the request how long it was queued and painted."""
    log_facts(request, queue=round(painted.queue_seconds, 6), compute=round(painted.compute_seconds, 6))
    tracing.painted(plan.offer.name, plan.n, painted.queue_seconds, painted.compute_seconds)


async def _stream(
    request: Request,
    caller: Caller,
    plan: PlannedRequest,
    charged: float,
    pending: PendingOrder,
    reserved: EncodeReservation,
) -> Response:
    """Return a stream of events; raises what the order fails with before its first event."""
    events = aiter(pending)
    first = asyncio.create_task(_awaited(anext(events)))
    try:
        async with sse.watching(request.receive, pending.cancel):
            await asyncio.wait((first,), timeout=_PATIENCE)
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        pending.cancel()
        raise

    def end() -> None:
        pending.cancel()
        reserved.release()

    chunks = stream_events(request, caller, plan, charged, _after(first, events))
    return sse.EventStream(chunks, on_end=end)


async def stream_events(
    request: Request, caller: Caller, plan: PlannedRequest, charged: float, events: AsyncIterator[Event]
) -> AsyncGenerator[bytes, None]:
    """Yield the documented events of a stream.

    With several pictures, each says its `image_index`.

    charged: when the pictures were charged to the caller, who gets a refund if painting fails.
    events: of the order that is painted.
    """
    pool = service_of(request).encode_pool
    try:
        async for event in events:
            if isinstance(event, Preview):
                for number, file in enumerate(await _packed(pool, plan, event.pixels)):
                    yield _event(plan, "partial_image", number, file, partial_image_index=event.index)
            elif isinstance(event, Painted):
                _record_times(request, plan, event)
                fields = {**answers.revision(plan), **answers.origin(plan)}
                for number, file in enumerate(await _packed(pool, plan, event.pixels)):
                    fields["usage"] = answers.usage(plan, number)
                    yield _event(plan, "completed", number, file, **fields)
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


async def _packed(pool: EncodePool, plan: PlannedRequest, pixels: Painting) -> list[bytes]:
    try:
        async with asyncio.timeout(plan.order.seconds):
            return await pool.to_base64(await _encode(pool, plan, pixels))
    except TimeoutError:
        raise _late(plan) from None


def _event(plan: PlannedRequest, kind: str, number: int, packed: bytes, **more: Any) -> bytes:
    name = f"{'image_edit' if plan.endpoint == 'edits' else 'image_generation'}.{kind}"
    data = {
        "type": name,
        "b64_json": "",
        "created_at": int(time.time()),
        **answers.image_facts(plan),
        **more,
    }
    if plan.n > 1:
        data["image_index"] = number
    return fill_pictures(sse.event(name, data), [packed])


async def _awaited(event: Awaitable[Event]) -> Event:
    return await event
