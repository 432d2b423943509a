"""Training as a service does it: a few processes at a time, which are stopped, resumed and found again."""

import asyncio
import contextlib
import importlib.util
import logging
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from danqing import atomic
from danqing.errors import ConfigError
from danqing.service.engine.orders import ModelUnavailableError
from danqing.service.engine.scheduler import Scheduler
from danqing.service.errors import ApiError
from danqing.service.observability import logs
from danqing.service.settings import TRAINED, Settings
from danqing.service.storage.database import Database, DatabaseError
from danqing.service.training import process, store
from danqing.service.training.nearest import Nearest
from danqing.service.training.set_check import SetCheck
from danqing.service.training.set_folder import SetFolder
from danqing.service.training.store import Owned
from danqing.service.training.tables import RunState, TrainingRun
from danqing.training.run_files import read_json

_log = logging.getLogger("danqing.training")

_LOOK = 0.5  # seconds between looks at the processes
_LAST = 30.0  # seconds that a stopping service waits for the checkpoints of runs


class Training:
    """The data sets and runs of a service.

    folder: of their files. home: identifies it among the services that share a database.
    """

    def __init__(self, settings: Settings, database: Database, scheduler: Scheduler) -> None:
        self.limits = settings.training
        self.folder = settings.data / "training"
        self.home = ""
        self._settings, self._database, self._scheduler = settings, database, scheduler
        self.nearest = Nearest()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._checks: dict[str, SetCheck] = {}
        self._checking = asyncio.Semaphore(1)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Return whether anything may be trained."""
        return self.limits.runs > 0

    async def start(self) -> None:
        """Find running processes again, and resume what was interrupted.

        Models are put back into service.

        Raises ConfigError without PyTorch.
        """
        if not self.is_on:
            return
        if importlib.util.find_spec("torch") is None:
            raise ConfigError("training.runs is set, and PyTorch is not installed here: set it to 0.")
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        self.home = _home(self.folder / "home")
        self._begin(self._serve_again())
        self._begin(self._look_always())

    async def stop(self) -> None:
        """Stop all processes, which write a checkpoint.

        The next start resumes them.
        """
        if not self.home:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runs = [run for run in await self._database.run(store.active_runs, self.home) if run.pid is not None]
        for run in runs:
            process.interrupt(self.run_folder(run.id), run.pid or 0)
        deadline = time.monotonic() + _LAST
        while time.monotonic() < deadline and any(self._runs(run.id) for run in runs):
            await asyncio.sleep(0.05)

    def whose(self, owner: str) -> Owned:
        """Return the owner of data sets and runs of a key."""
        return Owned(self.home, owner)

    def set_folder(self, id: str) -> SetFolder:
        """Return the folder of a data set that is in the database."""
        return SetFolder(self.folder / "sets" / id)

    def run_folder(self, id: str) -> Path:
        """Return the folder of a run that is in the database.

        The run folder of `danqing train` is in it, as `run`.
        """
        return self.folder / "runs" / id

    def lock_of(self, id: str) -> asyncio.Lock:
        """Return the lock for changes of a data set."""
        return self._locks.setdefault(id, asyncio.Lock())

    def check_of(self, id: str) -> SetCheck | None:
        """Return the latest check of a data set.

        None if there was none since the service has started.
        """
        return self._checks.get(id)

    def check_set(self, id: str) -> None:
        """Start to look for what is unusual in a data set.

        Does nothing while that is done.
        """
        known = self._checks.get(id)
        if known is None or known.is_done:
            check = self._checks[id] = SetCheck(self.set_folder(id))
            self._begin(check.run(self._checking))

    async def forget_set(self, id: str) -> None:
        """Delete the files of a data set, and end its check."""
        if (check := self._checks.pop(id, None)) is not None:
            check.kill()
        async with self.lock_of(id):
            await asyncio.to_thread(self.set_folder(id).delete)
        self._locks.pop(id, None)

    async def submit(self, run: TrainingRun, set_id: str) -> None:
        """Copy the images of a data set, and queue a run.

        Raises ApiError.
        """
        folder = self.run_folder(run.id)
        source = self.set_folder(set_id)
        try:
            async with self.lock_of(set_id):
                await self._database.run(store.find_set, self.whose(run.owner), set_id)  # it may be gone now
                await asyncio.to_thread(source.copy_to, folder / "data")
            await self._database.run(store.add_run, run, self.limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._changed.set()

    async def stop_run(self, owner: str, id: str) -> TrainingRun:
        """Stop a run, which writes a checkpoint.

        Raises ApiError.
        """
        await self._database.run(store.find_run, self.whose(owner), id)
        async with self.lock_of(id):
            run = await self._database.run(store.stop_run, self.whose(owner), id, time.time())
            if run.state == "stopping" and run.pid is not None:
                process.interrupt(self.run_folder(id), run.pid)
        return run

    async def resume_run(self, owner: str, id: str) -> TrainingRun:
        """Let a run go on that was stopped or has failed.

        Raises ApiError.
        """
        run = await self._database.run(store.resume_run, self.whose(owner), id)
        self._changed.set()
        return run

    async def delete_run(self, owner: str, id: str) -> None:
        """End a run at once, and delete all of its files.

        Raises ApiError.
        """
        await self._database.run(store.find_run, self.whose(owner), id)  # no lock for ids that are made up
        async with self.lock_of(id):
            run = await self._database.run(store.find_run, self.whose(owner), id)
            await self._database.run(store.delete_run, self.whose(owner), id)
            if run.model:
                self._scheduler.withdraw(run.model)
            folder = self.run_folder(id)
            await self.nearest.forget(folder)
            if run.pid is not None:
                process.kill(folder, run.pid)
                while self._runs(id):
                    await asyncio.sleep(0.02)
            self._processes.pop(id, None)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._locks.pop(id, None)

    async def serve(self, owner: str, id: str, name: str) -> str:
        """Put the model of a finished run into service.

        Only its owner can use it. Returns its name there.

        Raises ApiError.
        """
        if self._settings.require_signature:
            message = (
                "This service only serves signed models: download the run, sign its model and serve that."
            )
            raise ApiError(409, message, code="signature_required")
        run = await self._database.run(store.find_run, self.whose(owner), id)
        if run.state != "finished":
            raise ApiError(409, f"The run is {run.state}: only a finished one has a model.", code="run_state")
        model = model_name(name, owner)
        await self._database.run(store.name_model, self.whose(owner), id, model)
        if run.model and run.model != model:
            self._scheduler.withdraw(run.model)
        try:
            await self._scheduler.add_model(model, str(self.run_folder(id) / "run"))
        except ModelUnavailableError as error:
            await self._database.run(store.name_model, self.whose(owner), id, "")
            _log_unavailable(error)
            message = "The model cannot be served: the log of the service says why."
            raise ApiError(409, message, code="model_unavailable") from None
        return model

    async def withdraw(self, owner: str, id: str) -> None:
        """Take the model of a run out of service; raises ApiError 404."""
        run = await self._database.run(store.find_run, self.whose(owner), id)
        await self._database.run(store.name_model, self.whose(owner), id, "")
        if run.model:
            self._scheduler.withdraw(run.model)

    async def _serve_again(self) -> None:
        for run in await self._database.run(store.served_runs, self.home):
            try:
                await self._scheduler.add_model(run.model, str(self.run_folder(run.id) / "run"))
            except ModelUnavailableError as error:
                _log_unavailable(error)

    async def _look_always(self) -> None:
        while True:
            try:
                await self._look()
            except DatabaseError:
                pass  # it is away, and the processes go on
            except Exception:  # whatever it is, the other runs must be looked after
                _log.exception("the runs could not be looked after")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK)

    async def _look(self) -> None:
        """Record which processes have ended, and start those whose turn it is."""
        runs = await self._database.run(store.active_runs, self.home)
        free = self.limits.runs
        for run in runs:
            if run.state == "queued":
                continue
            if self._runs(run.id):
                free -= 1
                if run.state == "running" and self._is_overdue(run):
                    with contextlib.suppress(ApiError):  # it was deleted at this moment
                        await self.stop_run(run.owner, run.id)
            elif (
                run.id in self._processes
                or run.state == "stopping"
                or self._status(run.id) in ("finished", "failed")
            ):
                await self._settle(run)
            else:  # a restart of the service has interrupted it
                await self._database.run(store.has_ended, run.id, "queued", "", time.time())
        for run in [run for run in runs if run.state == "queued"][: max(0, free)]:
            async with self.lock_of(run.id):
                await self._start(run.id)

    async def _start(self, id: str) -> None:
        """Start the process of a run, unless it was stopped or deleted meanwhile."""
        run = await self._database.run(store.run_by_id, id)
        if run is None or run.state != "queued":
            return
        folder = self.run_folder(run.id)
        environment = {"DANQING_CACHE": str(folder / "cache")}
        try:
            started = process.start(_command(run, folder), folder, environment)
        except OSError as error:  # no memory or file is free at the moment
            logs.event(_log, "a run cannot be started", logging.WARNING, reason=str(error))
            return
        self._processes[run.id] = started
        try:
            await self._database.run(store.has_started, run.id, started.pid, time.time())
        except BaseException:  # nothing would know of it, and nobody could stop it
            process.kill(folder, started.pid)
            raise
        logs.event(_log, "a run has started", run=run.id, pid=started.pid)

    async def _settle(self, run: TrainingRun) -> None:
        """Record how a process has ended."""
        ended = self._processes.pop(run.id, None)
        state, reason = self._outcome(run.id, None if ended is None else ended.poll())
        if state == "stopped" and self._is_overdue(run):
            reason = f"It has taken {self.limits.minutes:g} minutes, the most that a run may take here."
        if state == "finished":  # nothing reads the images that it has prepared again
            cache = self.run_folder(run.id) / "cache"
            await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)
        await self._database.run(store.has_ended, run.id, state, reason, time.time())
        logs.event(_log, "a run has ended", run=run.id, state=state)

    def _is_overdue(self, run: TrainingRun) -> bool:
        """Return whether a run whose budget is in images takes longer than the settings allow."""
        started = time.time() if run.started is None else run.started
        return run.minutes is None and time.time() - started > 60 * self.limits.minutes

    def _outcome(self, id: str, code: int | None) -> tuple[RunState, str]:
        """Return the state of a run without a process, and why it failed.

        code: of its process, if it was started by this service.
        """
        folder = self.run_folder(id)
        facts = read_json(folder / "run" / "run.json")
        status = facts.get("status")
        if status == "finished" and code in (0, None):
            return "finished", ""
        has_stopped = code in (130, -signal.SIGINT, -signal.SIGTERM)
        if has_stopped or (code is None and status in ("interrupted", None)):
            return "stopped", ""
        told = facts.get("reason") if status == "failed" else None
        told = told or ("The process was killed." if code == -9 else process.last_words(folder))
        return "failed", str(told or "The process ended without a word.").replace(f"{folder}/", "")[:500]

    def _status(self, id: str) -> str | None:
        """Return what the run itself has recorded."""
        return read_json(self.run_folder(id) / "run" / "run.json").get("status")

    def _runs(self, id: str) -> bool:
        """Return whether the process of a run runs."""
        if (own := self._processes.get(id)) is not None and own.poll() is not None:
            return False
        return process.is_alive(self.run_folder(id))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def model_name(name: str, owner: str) -> str:
    """Return the name of a trained model in the service.

    `run:photos`, followed by the key of its owner if there is one.
    """
    return f"{TRAINED}{name}@{owner}" if owner else f"{TRAINED}{name}"


def _log_unavailable(error: ModelUnavailableError) -> None:
    logs.event(_log, "a trained model cannot be served", logging.WARNING, reason=str(error))


def _command(run: TrainingRun, folder: Path) -> list[str]:
    command = ["train", str(folder / "data" / "images"), "--out", str(folder / "run")]
    command += ["--preset", run.preset, "--seed", str(run.seed)]
    if run.minutes is not None:
        command += ["--minutes", f"{run.minutes:g}"]
    if run.images is not None:
        command += ["--images", str(run.images)]
    if (clean := folder / "data" / "clean.csv").exists():
        command += ["--clean", str(clean)]
    return command


def _home(file: Path) -> str:
    """Return the identity of a data folder, which it gets when something is trained there first."""
    with contextlib.suppress(FileExistsError):
        atomic.write_bytes(file, uuid.uuid4().hex.encode(), is_new=True)
    return file.read_text(encoding="ascii").strip()
