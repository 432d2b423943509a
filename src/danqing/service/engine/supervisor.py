"""Keeps one worker running: restarts it when it dies or hangs, and finds the model that causes it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from danqing.errors import DanqingError
from danqing.frames import Header
from danqing.service.engine.batching import BatchKind, WorkerBatch
from danqing.service.engine.catalogue import DEATHS, Catalogue
from danqing.service.engine.placement import Place
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
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds until another worker is started; doubled each time a worker dies at its start."""


class WorkerStartError(DanqingError):
    """The worker process cannot be started."""


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """The state of a running worker.

    place: where it runs, with the models that it holds.
    timings: of this worker and those that ran in its place.
    loading: the model that it is loading.
    memory: its resident memory, in bytes.
    flight: batches that it was sent and has not answered, by number.
    """

    process: WorkerProcess
    place: Place
    timings: Timings
    ready: bool = False
    loading: str | None = None
    loaded: tuple[str, ...] = ()
    memory: int = 0
    flight: dict[int, WorkerBatch] = field(default_factory=dict)
    checks: int = 0
    """How often it was checked since its last frame."""
    timer: asyncio.TimerHandle | None = None

    def holds(self, kind: BatchKind) -> bool:
        """Return whether it may be sent pictures of a kind."""
        return kind.model in self.place.models

    @property
    def rows_in_flight(self) -> int:
        """Return how many pictures it was sent and has not answered."""
        return sum(batch.rows - batch.answered for batch in self.flight.values())


class Supervisor:
    """Keeps one worker running until it is stopped.

    catalogue: filled as workers describe the models.
    on_frame: called with each frame of a worker, after its state was updated here.
    on_death: called with a worker that has died; its batches must be sent again.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place,
        catalogue: Catalogue,
        on_frame: Callable[[WorkerHandle, str, Header, memoryview], None],
        on_death: Callable[[WorkerHandle], None],
    ) -> None:
        self.worker: WorkerHandle | None = None
        self.place = place
        self.restarts = 0
        self.grace = GRACE
        self._settings, self._catalogue, self._timings = settings, catalogue, Timings()
        self._on_frame, self._on_death = on_frame, on_death
        self._start_deaths: dict[str, int] = {}
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._described: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start a worker, and wait until it has described its models.

        Raises WorkerStartError.
        """
        self._loop = asyncio.get_running_loop()
        self._described = self._loop.create_future()
        self._task = self._loop.create_task(self._run(), name=f"supervisor {self.place.number}")
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

    def add(self, name: str, source: str, *, describes: bool) -> None:
        """Let the worker, and those that follow it, hold another model.

        describes: whether it also reads the model's folder now.
        """
        models = dict.fromkeys((*self.place.models, name))
        described = dict.fromkeys((*self.place.describes, name)) if describes else self.place.describes
        self.place = replace(self.place, models=tuple(models), describes=tuple(described))
        if self.worker is not None:
            self.worker.place = self.place
            added = {"kind": "add", "model": name, "source": source, "describe": describes}
            self.worker.process.send(added)

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
            _log.warning("the worker %d hangs while it paints: it is killed", self.place.number)
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
        pause, was_started = SHORTEST_PAUSE, False
        while not self._stopping:
            try:
                process = await WorkerProcess.start(self._setup(), self.receive, self.place.environment)
            except Exception as error:  # no memory, file or thread is free at the moment
                if not was_started:
                    raise WorkerStartError(f"The worker cannot be started: {error}.") from error
                _log.warning("the worker %d cannot be started: %s", self.place.number, error)
                pause = min(2 * pause, LONGEST_PAUSE)
                await asyncio.sleep(pause)
                continue
            was_started = True
            worker = self.worker = WorkerHandle(process, self.place, self._timings)
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
        place, catalogue = self.place, self._catalogue
        return {
            "models": catalogue.sources_of(place.models),
            "adapters": self._settings.adapters,
            "marks": str(self._settings.mark_settings),
            "require_signature": [str(path) for path in self._settings.require_signature],
            "describe": catalogue.missing(place.describes),
            "device": place.device,
            "threads": place.threads,
            "processors": place.processors,
            "memory": self._settings.engine.memory,
        }

    def receive(self, header: Header, block: memoryview) -> None:
        """Handle a frame of the current worker."""
        worker = self.worker
        if worker is None:
            return
        what = header.pop("kind")
        worker.checks, worker.memory = 0, header.pop("memory", worker.memory)
        if what == "offer":
            self._catalogue.describe(header)
        elif what == "loading":
            worker.loading = header["model"]
        elif what == "loaded":
            self._catalogue.was_loaded(worker.loading or "")
            worker.loading, worker.loaded = None, tuple(header["models"])
        elif what == "ready":
            worker.ready = True
            if self._described is not None and not self._described.done():
                self._described.set_result(None)
        self._on_frame(worker, what, header, block)

    def _find_fault(self, worker: WorkerHandle) -> None:
        """Find the model that killed a worker, if any."""
        busy = ", ".join({batch.kind.model for batch in worker.flight.values()}) or "nothing"
        number, code = self.place.number, worker.process.exit_code
        _log.warning("the worker %d died (%s), painting with: %s", number, code, busy)
        if not worker.ready:
            self._on_death_at_start()
        if worker.loading is not None:
            self._catalogue.killed_while_loading(worker.loading)

    def _on_death_at_start(self) -> None:
        """Blame the model that was being described, so that the others can be served."""
        missing = next(iter(self._catalogue.missing(self.place.describes)), None)
        name = missing or ""
        deaths = self._start_deaths[name] = self._start_deaths.get(name, 0) + 1
        if missing is not None and deaths >= DEATHS:
            self._catalogue.cannot_be_described(missing)
        if missing is None and deaths > DEATHS and self._described is not None and not self._described.done():
            raise WorkerStartError("The worker dies at its start: the lines above say why.")
