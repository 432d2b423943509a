"""A run's process, which outlives requests and is found again after a restart of the service."""

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from danqing import interpreter

NICENESS = 10
"""How far the processes of training step back for the service."""


def start(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], *, out: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    """Start `danqing` with arguments in a session of its own.

    out: gets what it prints on stdout, instead of the file below.

    The process inherits a lock on a file of the folder, which ends with it, however it ends. What it says is
    in `output.log` there. Raises OSError.
    """
    with (folder / "lock").open("a") as lock, (folder / "output.log").open("ab") as said:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process = subprocess.Popen(
            interpreter.command("danqing", *command),
            pass_fds=[lock.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=said if out is None else out,
            stderr=said,
            start_new_session=True,  # Ctrl-C in the terminal of the service is not meant for it
            env={
                **interpreter.environment(),
                **environment,
                "DANQING_LANG": "en",
            },
        )
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


def is_alive(folder: Path) -> bool:
    """Return whether a process that was started in this folder still runs."""
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def interrupt(folder: Path, pid: int) -> None:
    """Let a process end after its current step, as Ctrl-C does.

    SIGINT would be lost before the first step if a script started the service by a shell's `&`, which lets it
    and its children ignore that signal.
    """
    if is_alive(folder):  # otherwise the number may belong to another process by now
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)


def kill(folder: Path, pid: int) -> None:
    """End a process and those that it started at once."""
    if is_alive(folder):
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def last_words(folder: Path, most: int = 500) -> str:
    """Return the last line that a process has said.

    Paths of the folder are left out.
    """
    try:
        content = (folder / "output.log").read_bytes()[-8192:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in content.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1].replace(f"{folder}/", "")[:most] if lines else ""
