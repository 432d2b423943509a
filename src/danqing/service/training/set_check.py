"""The check of a data set, by `danqing data check` and `danqing data clean` in processes of their own."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
from typing import Any, Literal

from danqing import atomic
from danqing.service.training import process
from danqing.service.training.set_folder import SetFolder

_log = logging.getLogger("danqing.training")

SIZE = "64"
"""The width and height at which images are compared."""
_KEPT = ("images", "found", "unreadable", "accuracy", "features", "rows")


class SetCheck:
    """One check of a data set.

    state: it waits, runs, is done or has failed; reason: why.
    """

    def __init__(self, folder: SetFolder) -> None:
        self.state: Literal["waiting", "running", "done", "failed"] = "waiting"
        self.reason = ""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    @property
    def is_done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self.state in ("done", "failed")

    async def run(self, turns: asyncio.Semaphore) -> None:
        """Check the set when it is its turn.

        What was found is written into its folder.
        """
        async with turns:
            self.state = "running"
            try:
                found = await self._found()
                if found is not None and not self._killed:
                    await asyncio.to_thread(atomic.write_json, self._folder.findings_file, found)
                    self.state = "done"
                    return
            except asyncio.CancelledError:
                self.kill()
                raise
            except Exception:  # such as a machine without room; clients must not wait for ever
                _log.exception("a data set could not be checked")
                self.reason = "The check could not be run: the log of the service says why."
            self.state = "failed"

    def kill(self) -> None:
        """End the check at once."""
        self._killed = True
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _found(self) -> dict[str, Any] | None:
        """Return what was found; None if the process has failed."""
        images = str(self._folder.images)
        command = ["data", "clean", images, "--out", str(self._folder.page), "--size", SIZE, "--json"]
        if self._killed:
            return None
        environment = {"DANQING_CACHE": str(self._folder.cache)}
        (self._folder.path / "output.log").unlink(missing_ok=True)
        answer = self._folder.path / "answer.json"
        with answer.open("wb") as out:
            self._process = process.start(command, self._folder.path, environment, out=out)
            code = await asyncio.to_thread(self._process.wait)
        if code:
            self.reason = process.last_words(self._folder.path) or "The check ended without a word."
            return None
        found = json.loads(await asyncio.to_thread(answer.read_bytes))
        return {key: found[key] for key in _KEPT}
