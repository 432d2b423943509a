"""A scheduler with its worker, for tests that order pictures."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import uvloop

from danqing.service.engine.orders import Order, Painted
from danqing.service.engine.scheduler import Scheduler
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import EngineSettings, Settings

Result = TypeVar("Result")


class Running:
    """A running scheduler, and the loop that it runs in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, scheduler: Scheduler, metrics: Metrics) -> None:
        self.loop, self.scheduler, self.metrics = loop, scheduler, metrics

    @property
    def pid(self) -> int:
        """Of the worker."""
        pid = self.scheduler.state().workers[0].pid
        assert pid is not None
        return pid

    def do(self, coroutine: Coroutine[Any, Any, Result], seconds: float = 120.0) -> Result:
        """The result of a coroutine, which must not take longer."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, seconds))

    def paint(self, *orders: Order) -> list[Painted]:
        """What comes of orders that are submitted together."""

        async def paint() -> list[Painted]:
            return list(await asyncio.gather(*[self.scheduler.submit(order).painted() for order in orders]))

        return self.do(paint())


@contextlib.contextmanager
def running(models: Mapping[str, str], **settings: Any) -> Iterator[Running]:
    """A scheduler that serves models, with some settings of `EngineSettings`."""
    metrics = Metrics()
    scheduler = Scheduler(Settings(models=dict(models), engine=EngineSettings(**settings)), metrics)
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(scheduler.start(), 120))
        yield Running(loop, scheduler, metrics)
    finally:
        loop.run_until_complete(scheduler.stop(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
