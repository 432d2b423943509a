"""Answers to planned requests: a whole body, or a stream of events while pictures are painted."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from functools import partial
from typing import Any

from fastapi import Request, Response

from danqing.errors import DanqingError
from danqing.service.access.caller import Caller
from danqing.service.engine.orders import Event, Painted, Painting, Preview
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.errors import ApiError, internal
from danqing.service.failures import from_danqing
from danqing.service.http import sse
from danqing.service.http.gate import log_facts
from danqing.service.json_output import encode_json
from danqing.service.parts import service_of
from danqing.service.pictures.encode_pool import EncodePool, EncodeReservation
from danqing.service.pictures.encoding import OutputFormat, fill_pictures
from danqing.service.requests import answers
from danqing.service.requests.moderation import BlockedError, What
from danqing.service.requests.planner import PlannedRequest
from danqing.service.routes.waiting import finished, late, record_times, refund

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
        charged = await caller.account.admit_pictures(plan.n)
        try:
            pending = service.scheduler.submit(plan.order)
            if plan.streams:
                return await _stream(request, caller, plan, charged, pending, reserved)
            make = partial(_body, request, plan)
            body = await finished(request, plan.order, pending, pending.painted(), make)
        except Exception as error:
            refund(caller, plan.n, charged, error)
            raise
    except BaseException:
        reserved.release()
        raise
    reserved.release()
    return Response(body, media_type="application/json")


async def _body(request: Request, plan: PlannedRequest, painted: Painted) -> bytes:
    """Return the body of the answer, in JSON."""
    service, packed = service_of(request), list[bytes]()
    files = await answers.encode(service.encode_pool, plan, painted.pixels, plan.output)
    await service.gallery.keep(plan.order.owner, files, plan.record)
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

    With several pictures, each says its `image_index`. Unfinished pictures that a filter blocks are left out.

    charged: when the pictures were charged to the caller, who gets a refund if painting fails.
    events: of the order that is painted.
    """
    service = service_of(request)
    pool = service.encode_pool
    try:
        async for event in events:
            if isinstance(event, Preview):
                for number, file in enumerate(await _preview(pool, plan, event.pixels)):
                    yield _event(plan, "partial_image", number, file, partial_image_index=event.index)
            elif isinstance(event, Painted):
                record_times(request, plan.offer.name, plan.n, event)
                fields = {**answers.revision(plan), **answers.origin(plan)}
                files = await _encoded(pool, plan, event.pixels, plan.output)
                await service.gallery.keep(plan.order.owner, files, plan.record)
                for number, file in enumerate(await pool.to_base64(files)):
                    fields["usage"] = answers.usage(plan, number)
                    yield _event(plan, "completed", number, file, **fields)
    except (DanqingError, ApiError) as error:
        refund(caller, plan.n, charged, error)
        failure = error if isinstance(error, ApiError) else from_danqing(error)
        yield sse.event("error", failure.body())
    except Exception as error:
        refund(caller, plan.n, charged, error)
        _log.exception("a stream failed")
        yield sse.event("error", internal().body())


async def _after(first: asyncio.Task[Event], rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield await first
    async for event in rest:
        yield event


async def _preview(pool: EncodePool, plan: PlannedRequest, pixels: Painting) -> list[bytes]:
    """Return unfinished pictures in base64; none if a filter blocks one of them."""
    try:
        files = await _encoded(pool, plan, pixels, plan.preview_output, what="preview")
        return await pool.to_base64(files)
    except BlockedError:
        return []


async def _encoded(
    pool: EncodePool, plan: PlannedRequest, pixels: Painting, output: OutputFormat, *, what: What = "output"
) -> list[bytes]:
    try:
        async with asyncio.timeout(plan.order.seconds):
            return await answers.encode(pool, plan, pixels, output, what=what)
    except TimeoutError:
        raise late(plan.order.seconds) from None


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
