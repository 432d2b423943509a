"""Waits for orders while their clients do, and charges their keys."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from danqing.service.access.caller import Caller
from danqing.service.engine.orders import (
    DeadlinePassedError,
    Order,
    OrderCancelledError,
    Outcome,
)
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.http import sse
from danqing.service.http.gate import log_facts
from danqing.service.observability import tracing

_Outcome = TypeVar("_Outcome", bound=Outcome)


async def finished(
    request: Request,
    order: Order,
    pending: PendingOrder,
    outcome: Awaitable[_Outcome],
    body: Callable[[_Outcome], Awaitable[bytes]],
) -> bytes:
    """Return the body of the answer.

    Stops when it takes too long or the client leaves.

    pending: the order in the queue. outcome: what it produces. body: makes the answer from that.
    """
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        pending.cancel()
        limit.reschedule(0)

    try:
        async with asyncio.timeout(order.seconds) as limit, sse.watching(request.receive, leave):
            found = await outcome
            record_times(request, order.model, len(order.rows), found)
            return await body(found)
    except TimeoutError:
        if left:
            raise OrderCancelledError("The client left.") from None
        raise late(order.seconds) from None
    finally:
        pending.cancel()


def late(seconds: float) -> DeadlinePassedError:
    """Return the error for a request whose time is over."""
    return DeadlinePassedError(f"The pictures were not ready within {seconds:g} seconds: request fewer.")


def refund(caller: Caller, pictures: int, charged: float, error: Exception) -> None:
    """Refund pictures that failed.

    Not if the client left: the work had begun for it.

    charged: when they were charged.
    """
    if not isinstance(error, OrderCancelledError):
        caller.account.refund(pictures, charged)


def record_times(request: Request, model: str, pictures: int, outcome: Outcome) -> None:
    """Record how long a request was queued and computed."""
    log_facts(request, queue=round(outcome.queue_seconds, 6), compute=round(outcome.compute_seconds, 6))
    tracing.painted(model, pictures, outcome.queue_seconds, outcome.compute_seconds)
