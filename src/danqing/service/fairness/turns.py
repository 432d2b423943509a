"""Order: whose turn is next, by start-time fair queueing.

Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996: each request has a start tag, the virtual time at
which it would begin if its owner had a fair share of the resource. The smallest tag is served next. An owner
who requests much has later tags, and does not delay one who requests little.
"""

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator, Hashable

_MANY = 1024


class FairOrder:
    """Assigns start tags to requests."""

    def __init__(self) -> None:
        self._now = 0.0  # virtual time: the latest start tag that was served
        self._next: dict[Hashable, float] = {}  # the earliest start of each owner's next request
        self._many = _MANY

    @property
    def owners(self) -> int:
        """Return how many owners are remembered."""
        return len(self._next)

    def tag(self, owner: Hashable, cost: float, delay: float = 0.0) -> float:
        """Return the start tag of a new request.

        cost: the amount of the resource that it uses, in any unit.
        delay: the amount of others' requests that goes first, in the same unit.
        """
        start = max(self._now + delay, self._next.get(owner, 0.0))
        self._next[owner] = start + cost
        if len(self._next) > self._many:  # owners whose time has passed start now anyway
            self._next = {who: tag for who, tag in self._next.items() if tag > self._now}
            self._many = max(_MANY, 2 * len(self._next))
        return start

    def serve(self, tag: float) -> None:
        """Advance the virtual time: a request with this tag is served."""
        self._now = max(self._now, tag)

    def withdraw(self, owner: Hashable, cost: float) -> None:
        """Take back the cost of a request that will not be served."""
        if (tag := self._next.get(owner, 0.0) - cost) > self._now:
            self._next[owner] = tag
        else:
            self._next.pop(owner, None)


class TurnTaker:
    """Lets requests wait for a resource, in a fair order of owners.

    Requests of one owner are served first come, first served. A request for more than the maximum is served
    when nothing else is in use.

    most: that may be in use at the same time.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.in_use = 0
        self._order = FairOrder()
        self._waiting: list[tuple[float, int, str, int, asyncio.Future[None]]] = []
        self._number = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return sum(not waiter[-1].done() for waiter in self._waiting)

    async def acquire(self, owner: str, amount: int = 1) -> None:
        """Wait for a turn, and use an amount until `release`."""
        tag = self._order.tag(owner, amount)
        if not self._waiting and self._fits(amount):
            self._use(tag, amount)
            return
        turn = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, (tag, self._number, owner, amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came at the same moment
                self.release(amount)
            else:
                self._order.withdraw(owner, amount)
                self._serve()  # those behind it may fit
            raise

    def release(self, amount: int = 1) -> None:
        """End a turn."""
        self.in_use -= amount
        self._serve()

    @contextlib.asynccontextmanager
    async def turn(self, owner: str, amount: int = 1) -> AsyncIterator[None]:
        """Wait for a turn that lasts as long as the block."""
        await self.acquire(owner, amount)
        try:
            yield
        finally:
            self.release(amount)

    def _fits(self, amount: int) -> bool:
        return not self.in_use or self.in_use + amount <= self.most

    def _use(self, tag: float, amount: int) -> None:
        self._order.serve(tag)
        self.in_use += amount

    def _serve(self) -> None:
        """Give turns to the next requests, as long as there is room for them."""
        while self._waiting:
            tag, _, _, amount, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(amount):
                    return
                self._use(tag, amount)
                turn.set_result(None)
            heapq.heappop(self._waiting)
