"""Keeps a worker running: starts it, notices when it dies or hangs, and which model it dies of."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from danqing.errors import DanqingError
from danqing.service.engine.batching import Batch
from danqing.service.engine.connections import Header
from danqing.service.engine.orders import Offer
from danqing.service.engine.timings import Prices
from danqing.service.engine.worker_process import WorkerProcess
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

GRACE = 10.0
"""Seconds that a worker may say nothing of what it paints, and three times as long as a chunk should take."""
FIRST_GRACE = 600.0
"""Seconds that a model may take to be loaded, fetched from the hub perhaps, or to paint at first."""
LOOKS = 4
"""How often a worker is looked after in the seconds of `Keeper.grace`."""
DEATHS = 2
"""Of a worker, until what it did meanwhile is held to be the reason."""
SHORTEST_BAN, LONGEST_BAN = 5.0, 300.0
"""Seconds until a model whose loading killed workers is tried again: longer each time that it does so."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds until another worker is started: longer each time that one dies before it could begin."""


class EngineError(DanqingError):
    """A worker process that cannot be started."""


@dataclass(slots=True)
class Worker:
    """What is known of a worker. flight: what it was given and has not answered for yet, by number."""

    process: WorkerProcess
    ready: bool = False
    loading: str | None = None
    loaded: tuple[str, ...] = ()
    memory: int = 0
    flight: dict[int, Batch] = field(default_factory=dict)
    looks: int = 0
    """How often it was looked after since it last said something."""
    timer: asyncio.TimerHandle | None = None


class Keeper:
    """Has one worker running at a time, until it is stopped.

    offers: filled as workers describe the models, and given the `fault` of those that workers die of.
    on_frame: told of all that a worker says, after what concerns itself has been noted here; on_death: of a
    worker that is gone, and has to be given anew what it was painting.
    """

    def __init__(
        self,
        settings: Settings,
        offers: dict[str, Offer],
        prices: Prices,
        on_frame: Callable[[Worker, str, Header, memoryview], None],
        on_death: Callable[[Worker], None],
    ) -> None:
        self.worker: Worker | None = None
        self.restarts = 0
        self.grace = GRACE
        self._settings, self._offers, self._prices = settings, offers, prices
        self._on_frame, self._on_death = on_frame, on_death
        self._early_deaths: dict[str, int] = {}
        self._loading_deaths: dict[str, int] = {}
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._described: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start a worker; returns when it has described every model. Raises EngineError if it cannot."""
        self._loop = asyncio.get_running_loop()
        self._described = self._loop.create_future()
        self._task = self._loop.create_task(self._keep(), name="engine: keep a worker")
        await asyncio.wait({self._described, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End the worker, whatever it does."""
        self._stopping = True
        if self._task is not None:
            if self.worker is not None:
                self.worker.process.kill()
            await asyncio.wait({self._task})

    def watch(self, worker: Worker) -> None:
        """From now on, or still, a worker has something to paint, or nothing any more."""
        if worker.timer is None and worker.flight:
            worker.looks = 0
            self._look(worker)
        elif worker.timer is not None and not worker.flight:
            worker.timer.cancel()
            worker.timer = None

    def _look(self, worker: Worker) -> None:
        """Kill a worker that says nothing any more of what it has to paint.

        Looks are counted, not seconds: while this process stands still itself, nobody can be heard.
        """
        interval = self.grace / LOOKS
        if worker.looks * interval >= self._patience(worker):
            _log.warning("the worker says nothing any more of what it paints: it is ended")
            worker.process.kill()
            return
        worker.looks += 1
        worker.timer = self._loop.call_later(interval, self._look, worker)

    def _patience(self, worker: Worker) -> float:
        """Seconds that a worker may say nothing."""
        batch = next(iter(worker.flight.values()))
        patience = max(self.grace, 3 * self._prices.of(batch.kind))
        wanted = not all(piece.ticket.ended for piece in batch.pieces)
        if worker.loading or (wanted and not self._prices.knows(batch.kind)):
            return max(patience, FIRST_GRACE)
        return patience

    async def _keep(self) -> None:
        """Start a worker, and another one whenever it dies."""
        pause = SHORTEST_PAUSE
        while not self._stopping:
            try:
                process = await WorkerProcess.start(self._told(), self._hear)
            except Exception as error:  # no memory, file or thread left, for the moment
                if not self._offers:
                    raise EngineError(f"The worker cannot be started: {error}.") from error
                _log.warning("the worker cannot be started: %s", error)
                pause = min(2 * pause, LONGEST_PAUSE)
                await asyncio.sleep(pause)
                continue
            worker = self.worker = Worker(process)
            if self._stopping:
                process.kill()
            await process.ended()
            self.worker = None
            if worker.timer is not None:
                worker.timer.cancel()
            if self._stopping:
                break
            self.restarts += 1
            self._find_fault(worker)
            self._on_death(worker)
            pause = SHORTEST_PAUSE if worker.ready else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    def _told(self) -> Header:
        """What a worker is told first."""
        engine, models = self._settings.engine, self._settings.models
        return {
            "models": models,
            "describe": [name for name in models if name not in self._offers],
            "device": engine.device,
            "threads": engine.threads,
            "memory": engine.memory,
        }

    def _hear(self, header: Header, block: memoryview) -> None:
        worker = self.worker
        if worker is None:
            return
        what = header.pop("kind")
        worker.looks, worker.memory = 0, header.pop("memory", worker.memory)
        if what == "offer":
            self._on_offer(header)
        elif what == "loading":
            worker.loading = header["model"]
        elif what == "loaded":
            self._loading_deaths.pop(worker.loading or "", None)
            worker.loading, worker.loaded = None, tuple(header["models"])
        elif what == "ready":
            worker.ready = True
            if self._described is not None and not self._described.done():
                self._described.set_result(None)
        self._on_frame(worker, what, header, block)

    def _on_offer(self, header: Header) -> None:
        for name in ("labels", "captions"):
            header[name] = tuple(header[name])
        offer = self._offers[header["name"]] = Offer(**header)
        if offer.fault is not None:
            _log.warning("the model %s cannot be served: %s", offer.name, offer.fault)

    def _find_fault(self, worker: Worker) -> None:
        """Find out which model a worker died of, if it was one."""
        busy = ", ".join({batch.kind.model for batch in worker.flight.values()}) or "nothing"
        _log.warning("the worker died (%s), painting with: %s", worker.process.exit_code, busy)
        if not worker.ready:
            self._on_death_at_start()
        if (name := worker.loading) is not None:
            deaths = self._loading_deaths[name] = self._loading_deaths.get(name, 0) + 1
            if deaths >= DEATHS:
                fault = "the worker died whenever it loaded the model: is there enough memory?"
                self._offers[name] = dataclasses.replace(self._offers[name], fault=fault)
                ban = min(SHORTEST_BAN * 2 ** (deaths - DEATHS), LONGEST_BAN)
                self._loop.call_later(ban, self._lift_ban, name)

    def _lift_ban(self, name: str) -> None:
        """Let a model be tried again: memory may be free by now."""
        self._offers[name] = dataclasses.replace(self._offers[name], fault=None)

    def _on_death_at_start(self) -> None:
        """The model that was being described is to blame, so that the others can be served."""
        missing = next((name for name in self._settings.models if name not in self._offers), None)
        name = missing or ""
        deaths = self._early_deaths[name] = self._early_deaths.get(name, 0) + 1
        if missing is not None and deaths >= DEATHS:
            fault = "the worker died whenever it looked into the model's folder."
            self._offers[missing] = Offer(name=missing, path=self._settings.models[missing], fault=fault)
        if missing is None and deaths > DEATHS and self._described is not None and not self._described.done():
            raise EngineError("The worker dies before it can begin: the lines above say why.")
