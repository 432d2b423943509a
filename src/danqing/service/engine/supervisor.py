"""Keeps a worker running: restarts it when it dies or hangs, and finds the model that causes it."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from danqing.errors import DanqingError
from danqing.frames import Header
from danqing.images import SizeRange
from danqing.service.engine.batching import WorkerBatch
from danqing.service.engine.offers import Offer
from danqing.service.engine.timings import Timings
from danqing.service.engine.worker_process import WorkerProcess
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

GRACE = 10.0
"""Seconds that a busy worker may be silent; at least three times as long as a chunk should take."""
FIRST_GRACE = 600.0
"""Seconds that loading a model, perhaps from the hub, or its first painting may take."""
CHECKS = 4
"""How often a busy worker is checked within the seconds of `Supervisor.grace`."""
DEATHS = 2
"""How many workers may die during the same work before it counts as the cause."""
SHORTEST_BAN, LONGEST_BAN = 5.0, 300.0
"""Seconds until a model whose loading killed workers is retried; doubled each time."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds until another worker is started; doubled each time a worker dies at its start."""


class WorkerStartError(DanqingError):
    """The worker process cannot be started."""


@dataclass(slots=True)
class WorkerHandle:
    """The state of a running worker.

    loading: the model that it is loading.
    memory: its resident memory, in bytes.
    flight: batches that it was sent and has not answered, by number.
    """

    process: WorkerProcess
    ready: bool = False
    loading: str | None = None
    loaded: tuple[str, ...] = ()
    memory: int = 0
    flight: dict[int, WorkerBatch] = field(default_factory=dict)
    checks: int = 0
    """How often it was checked since its last frame."""
    timer: asyncio.TimerHandle | None = None


class Supervisor:
    """Keeps one worker running until it is stopped.

    offers: filled as workers describe the models; models that kill workers get a `fault`.
    on_frame: called with each frame of a worker, after its state was updated here.
    on_death: called with a worker that has died; its batches must be sent again.
    """

    def __init__(
        self,
        settings: Settings,
        offers: dict[str, Offer],
        timings: Timings,
        on_frame: Callable[[WorkerHandle, str, Header, memoryview], None],
        on_death: Callable[[WorkerHandle], None],
    ) -> None:
        self.worker: WorkerHandle | None = None
        self.restarts = 0
        self.grace = GRACE
        self._settings, self._offers, self._timings = settings, offers, timings
        self._on_frame, self._on_death = on_frame, on_death
        self._start_deaths: dict[str, int] = {}
        self.loading_deaths: dict[str, int] = {}
        """How many workers died while loading a model since it was last loaded, by its name."""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._described: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start a worker, and wait until it has described every model.

        Raises WorkerStartError.
        """
        self._loop = asyncio.get_running_loop()
        self._described = self._loop.create_future()
        self._task = self._loop.create_task(self._run(), name="supervisor")
        await asyncio.wait({self._described, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Kill the worker."""
        self._stopping = True
        if self._task is not None:
            if self.worker is not None:
                self.worker.process.kill()
            await asyncio.wait({self._task})

    def watch(self, worker: WorkerHandle) -> None:
        """Start or stop checking a worker: its batches in flight have changed."""
        if worker.timer is None and worker.flight:
            worker.checks = 0
            self._check(worker)
        elif worker.timer is not None and not worker.flight:
            worker.timer.cancel()
            worker.timer = None

    def _check(self, worker: WorkerHandle) -> None:
        """Kill a busy worker that is silent for too long.

        Checks are counted, not seconds: while this process is itself stopped, it can receive nothing.
        """
        interval = self.grace / CHECKS
        if worker.checks * interval >= self._patience(worker):
            _log.warning("the worker hangs while it paints: it is killed")
            worker.process.kill()
            return
        worker.checks += 1
        worker.timer = self._loop.call_later(interval, self._check, worker)

    def _patience(self, worker: WorkerHandle) -> float:
        """Return how many seconds a worker may be silent."""
        batch = next(iter(worker.flight.values()))
        patience = max(self.grace, 3 * self._timings.estimate(batch.kind))
        wanted = not all(piece.pending.ended for piece in batch.pieces)
        if worker.loading or (wanted and not self._timings.has(batch.kind)):
            return max(patience, FIRST_GRACE)
        return patience

    async def _run(self) -> None:
        """Start a worker, and another one whenever it dies."""
        pause = SHORTEST_PAUSE
        while not self._stopping:
            try:
                process = await WorkerProcess.start(self._setup(), self.receive)
            except Exception as error:  # no memory, file or thread is free at the moment
                if not self._offers:
                    raise WorkerStartError(f"The worker cannot be started: {error}.") from error
                _log.warning("the worker cannot be started: %s", error)
                pause = min(2 * pause, LONGEST_PAUSE)
                await asyncio.sleep(pause)
                continue
            worker = self.worker = WorkerHandle(process)
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

    def _setup(self) -> Header:
        """Return the first frame that a worker receives."""
        engine, models = self._settings.engine, self._settings.models
        return {
            "models": models,
            "describe": [name for name in models if name not in self._offers],
            "device": engine.device,
            "threads": engine.threads,
            "memory": engine.memory,
        }

    def receive(self, header: Header, block: memoryview) -> None:
        """Handle a frame of the current worker."""
        worker = self.worker
        if worker is None:
            return
        what = header.pop("kind")
        worker.checks, worker.memory = 0, header.pop("memory", worker.memory)
        if what == "offer":
            self._on_offer(header)
        elif what == "loading":
            worker.loading = header["model"]
        elif what == "loaded":
            self.loading_deaths.pop(worker.loading or "", None)
            worker.loading, worker.loaded = None, tuple(header["models"])
        elif what == "ready":
            worker.ready = True
            if self._described is not None and not self._described.done():
                self._described.set_result(None)
        self._on_frame(worker, what, header, block)

    def _on_offer(self, header: Header) -> None:
        for name in ("labels", "captions", "attributes"):
            header[name] = tuple(header[name])
        header["range"] = header["range"] and tuple(header["range"])
        own, *limits = header["sizes"]
        header["sizes"] = SizeRange(tuple((width, height) for width, height in own), *limits)
        offer = self._offers[header["name"]] = Offer(**header)
        if offer.fault is not None:
            _log.warning("the model %s cannot be served: %s", offer.name, offer.fault)

    def _find_fault(self, worker: WorkerHandle) -> None:
        """Find the model that killed a worker, if any."""
        busy = ", ".join({batch.kind.model for batch in worker.flight.values()}) or "nothing"
        _log.warning("the worker died (%s), painting with: %s", worker.process.exit_code, busy)
        if not worker.ready:
            self._on_death_at_start()
        if (name := worker.loading) is not None:
            deaths = self.loading_deaths[name] = self.loading_deaths.get(name, 0) + 1
            if deaths >= DEATHS:
                fault = "the worker died whenever it loaded the model: check that there is enough memory."
                self._offers[name] = dataclasses.replace(self._offers[name], fault=fault)
                ban = min(SHORTEST_BAN * 2 ** (deaths - DEATHS), LONGEST_BAN)
                self._loop.call_later(ban, self._lift_ban, name)

    def _lift_ban(self, name: str) -> None:
        """Allow a model again: memory may be free by now."""
        self._offers[name] = dataclasses.replace(self._offers[name], fault=None)

    def _on_death_at_start(self) -> None:
        """Blame the model that was being described, so that the others can be served."""
        missing = next((name for name in self._settings.models if name not in self._offers), None)
        name = missing or ""
        deaths = self._start_deaths[name] = self._start_deaths.get(name, 0) + 1
        if missing is not None and deaths >= DEATHS:
            fault = "the worker died whenever it read the model's folder."
            self._offers[missing] = Offer(name=missing, path=self._settings.models[missing], fault=fault)
        if missing is None and deaths > DEATHS and self._described is not None and not self._described.done():
            raise WorkerStartError("The worker dies at its start: the lines above say why.")
