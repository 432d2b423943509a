"""Who waits for what happens to a job: told by the server that paints it, and by a look into the database."""

import asyncio
import contextlib
from collections.abc import Iterator


class Watchers:
    """Those who wait, by the job that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._known: dict[str, int] = {}

    @property
    def jobs(self) -> list[str]:
        """The jobs that somebody watches."""
        return list(self._waiting)

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """What is set whenever something may have happened to a job, while the block lasts."""
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
                self._known.pop(job_id, None)

    def tell(self, job_id: str) -> None:
        """Something happened to a job."""
        for changed in self._waiting.get(job_id, ()):
            changed.set()

    def tell_of(self, job_id: str, number: int) -> None:
        """The last event of a job is number `number`, which may be known."""
        if job_id in self._waiting and self._known.get(job_id) != number:
            self._known[job_id] = number
            self.tell(job_id)

    def tell_all(self) -> None:
        """Let go of all who wait."""
        for job_id in self._waiting:
            self.tell(job_id)
