"""A run in a process of its own, with its own memory, energy and crashes.

It reads its task from a pipe that stays open. When the pipe is closed, on request or because the process that
started it was killed, it saves and ends.
"""

import _thread
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from filelock import FileLock, Timeout

from danqing import interpreter
from danqing.errors import DanqingError
from danqing.training.listener import Listener, Progress
from danqing.training.run_files import read_lines

_BETWEEN_TELLINGS = 0.2  # seconds
SAVING_TIME = 120.0
"""Seconds that a process may take to save before it is killed."""


class Training(Protocol):
    """A run at work in a process of its own, here or on a node.

    done, total: images seen and planned.
    """

    done: int
    total: int

    @property
    def running(self) -> bool: ...
    @property
    def interrupted(self) -> bool: ...
    def ask_to_stop(self) -> None: ...
    def stop(self) -> None: ...
    def error(self) -> str: ...
    def score_lines(self) -> list[dict[str, Any]]: ...


class StartsTraining(Protocol):
    """What starts a run.

    arguments: of `train`. threads: of its process, by default as many as usual.
    """

    def __call__(self, arguments: Mapping[str, Any], threads: int | None = None, /) -> Training: ...


class TrainingProcess:
    """A process that trains.

    arguments: those of `train`. done, total: images seen and planned.
    """

    def __init__(self, arguments: Mapping[str, Any], threads: int | None = None) -> None:
        environment = interpreter.environment()
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.done, self.total = 0, 0
        self._arguments = dict(arguments)
        self._said: dict[str, Any] = {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            interpreter.command("danqing.studies.training_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C must reach only the process that started it
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its exit code says why
            self._process.stdin.write(json.dumps(dict(arguments)).encode() + b"\n")
            self._process.stdin.flush()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def interrupted(self) -> bool:
        """Whether it ended because it was stopped."""
        return self._said.get("status") == "interrupted"

    def stop(self) -> None:
        """Let it save and end, and wait; safe to call again."""
        self.ask_to_stop()
        try:
            self._process.wait(SAVING_TIME)
        except subprocess.TimeoutExpired:  # what it has saved before stays
            self._kill()
        except KeyboardInterrupt:  # a second Ctrl-C
            self._kill()
            raise
        finally:
            self._listening.join(5)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask_to_stop(self) -> None:
        """Let it save and end, without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def error(self) -> str:
        """Return why it failed, in one sentence; "" if it did not."""
        if self.running:
            return ""
        self._listening.join(5)
        if "error" in self._said:
            return str(self._said["error"])
        if "status" in self._said:
            return ""
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps because memory ran out: lower batch_size" if name == "SIGKILL" else ""
            return f"The process was ended by {name}{hint}."
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"The process ended with code {code}: {lines[-1] if lines else 'it said nothing'}"

    def score_lines(self) -> list[dict[str, Any]]:
        """Return the lines of its `scores.jsonl` so far."""
        return read_lines(Path(self._arguments["out"]) / "scores.jsonl")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self._said |= said
                    self.done, self.total = self._said.get("done", 0), self._said.get("total", 0)


def wait_until_free(run_folder: Path) -> None:
    """Wait for a process of a killed study that still saves its run."""
    if run_folder.exists():
        with contextlib.suppress(Timeout), FileLock(run_folder / ".lock", timeout=SAVING_TIME):
            pass


class _Teller(Listener):
    """Reports progress to the process that started this one."""

    def __init__(self) -> None:
        self._told = 0.0

    def on_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told > _BETWEEN_TELLINGS:
            self._told = now
            _tell(done=progress.images, total=progress.total_images)


def _tell(**said: Any) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the closed pipe ends the run
        os.write(1, json.dumps(said).encode() + b"\n")


def _stop_when_alone() -> None:
    # Not by sys.stdin: its lock, held by a thread that waits, would break the interpreter's end.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _thread.interrupt_main(signal.SIGINT)


def main() -> None:
    """Read a task from standard input, train, and report the result."""
    from danqing.training.run import train  # here: a process that only starts others needs no PyTorch

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    with os.fdopen(0, "rb", buffering=0, closefd=False) as unbuffered:
        arguments = json.loads(unbuffered.readline() or "null")
    if arguments is None:
        return
    try:
        threading.Thread(target=_stop_when_alone, daemon=True).start()
        size = arguments.pop("size", None)
        run = train(**arguments, size=None if size is None else tuple(size), listener=_Teller())
        _tell(status=run.status)
    except DanqingError as error:
        _tell(error=str(error))
    except KeyboardInterrupt:
        _tell(status="interrupted")


if __name__ == "__main__":
    main()
