"""Tasks that wait for changes of jobs, made by this server or found in the database."""

import asyncio
import contextlib
from collections.abc import Iterator


class JobWatchers:
    """Waiting tasks, by the job that they watch."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._known: dict[str, int] = {}

    @property
    def jobs(self) -> list[str]:
        """Return the ids of watched jobs."""
        return list(self._waiting)

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever a job may have changed."""
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
                self._known.pop(job_id, None)

    def wake(self, job_id: str) -> None:
        """Wake the watchers of a job."""
        for changed in self._waiting.get(job_id, ()):
            changed.set()

    def wake_for(self, job_id: str, number: int) -> None:
        """Wake the watchers of a job, unless they know its last event."""
        if job_id in self._waiting and self._known.get(job_id) != number:
            self._known[job_id] = number
            self.wake(job_id)

    def wake_all(self) -> None:
        """Wake all watchers."""
        for job_id in self._waiting:
            self.wake(job_id)
