"""The workers of a service, each with its supervisor."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from danqing.frames import Header
from danqing.service.engine.catalogue import Catalogue
from danqing.service.engine.placement import places
from danqing.service.engine.supervisor import Supervisor, WorkerHandle
from danqing.service.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The state of one worker.

    device: as in the settings.
    pid: of its process, None while it is restarted.
    models: that it holds; loaded: those in its memory.
    in_flight: pictures that it was sent and has not answered.
    memory_bytes: its resident memory.
    """

    number: int
    device: str
    pid: int | None
    alive: bool
    restarts: int
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    in_flight: int
    memory_bytes: int


class WorkerPool:
    """Keeps all workers running; when one dies, the others go on.

    supervisors: by the number of their worker. Arguments are those of `Supervisor`.

    Raises ConfigError for workers that cannot be placed as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        on_frame: Callable[[WorkerHandle, str, Header, memoryview], None],
        on_death: Callable[[WorkerHandle], None],
    ) -> None:
        self.supervisors = tuple(
            Supervisor(settings, place, catalogue, on_frame, on_death) for place in places(settings)
        )
        self._holders = {
            name: tuple(one.place.number for one in self.supervisors if name in one.place.models)
            for name in settings.all_models
        }

    async def start(self) -> None:
        """Start all workers, and wait until they have described every model.

        Raises WorkerStartError.
        """
        await asyncio.gather(*(one.start() for one in self.supervisors))

    async def stop(self) -> None:
        """Kill all workers."""
        await asyncio.gather(*(one.stop() for one in self.supervisors))

    def __len__(self) -> int:
        return len(self.supervisors)

    @property
    def running(self) -> list[WorkerHandle]:
        """Return the workers that run, in order of their numbers."""
        return [one.worker for one in self.supervisors if one.worker is not None]

    @property
    def ready(self) -> list[WorkerHandle]:
        """Return the workers that can be sent batches."""
        return [worker for worker in self.running if worker.ready]

    def holders(self, model: str) -> tuple[int, ...]:
        """Return the numbers of the workers that hold a model."""
        return self._holders[model]

    def add(self, name: str, source: str) -> None:
        """Let workers hold another model.

        All that are of the kind of the first hold it, since these give the same pixels.
        """
        first = _kind(self.supervisors[0])
        holders = [one for one in self.supervisors if _kind(one) == first]
        self._holders[name] = tuple(one.place.number for one in holders)
        for one in holders:
            one.add(name, source, describes=one is holders[0])

    def watch(self, worker: WorkerHandle) -> None:
        """Call `Supervisor.watch` of a worker."""
        self.supervisors[worker.place.number].watch(worker)

    def states(self) -> tuple[WorkerState, ...]:
        """Return the state of each worker."""
        return tuple(_state(one) for one in self.supervisors)


def _kind(supervisor: Supervisor) -> str:
    return supervisor.place.device.partition(":")[0]


def _state(supervisor: Supervisor) -> WorkerState:
    worker, place = supervisor.worker, supervisor.place
    return WorkerState(
        number=place.number,
        device=place.name,
        pid=worker.process.pid if worker else None,
        alive=worker is not None and worker.ready,
        restarts=supervisor.restarts,
        models=place.models,
        loaded=worker.loaded if worker else (),
        in_flight=worker.rows_in_flight if worker else 0,
        memory_bytes=worker.memory if worker else 0,
    )
