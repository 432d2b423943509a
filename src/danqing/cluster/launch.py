"""Processes on this machine that compute one run together: started, watched, ended and restarted together."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from danqing import interpreter
from danqing.cluster import ledger
from danqing.progress import say

LOST = 75
"""The exit status of a process that ends because another one has ended."""
MOST_FRUITLESS = 3
"""How many times in a row processes are started again that die before they save anything."""
_MEETING = "DANQING_MEETING"
_LAUNCHED = "DANQING_LAUNCHED"
_PROGRESS = "DANQING_PROGRESS"
_GRACE_SECONDS = 30.0
_GLANCE_SECONDS = 0.05


def launch(command: Sequence[str], processes: int, *, output: int | None = None) -> tuple[int, bytes]:
    """Start a command as several processes, and wait until all have ended.

    Each finds its place in the environment, as with `torchrun`. Signals are passed on. When one process
    fails, the others are ended. When one has died, by a signal that nobody has passed on, all are started
    again, unless they have died several times in a row without saving anything.

    output: where the standard output of the first process goes, as of `subprocess.Popen`.
    Returns the exit status of the process that failed first, or 0, and, if `output` is PIPE, what the first
    process wrote; if it wrote nothing, what another one wrote, such as why it failed. A process that ends
    because another one has ended (`LOST`) is not the first.
    """
    began, fruitless = time.time(), 0
    with tempfile.TemporaryDirectory(prefix="danqing-") as folder:
        progress = Path(folder) / "progress"
        for restart in itertools.count():
            before = _time_of(progress)
            own = {
                _MEETING: f"file://{Path(folder).absolute()}/meeting-{restart}",  # PyTorch decodes no %20
                _PROGRESS: str(progress),
                ledger.RESTART: str(restart),
                ledger.STARTED: str(began),
            }
            ended, written = _run(command, processes, own, output)
            if not ended.has_died:
                return ended.status, written
            fruitless = 0 if _time_of(progress) != before else fruitless + 1
            if fruitless >= MOST_FRUITLESS:
                say(
                    f"{ended.reason}. This has happened {fruitless} times before anything was saved: free "
                    "memory, or use fewer --processes. The same command resumes the run.",
                    style="red",
                )
                return ended.status, written
            say(f"{ended.reason}: all of them start again from the last checkpoint.", style="yellow")
    raise AssertionError


def report_progress() -> None:
    """Tell the process that launched this one that something has been saved."""
    if path := os.environ.get(_PROGRESS):
        with contextlib.suppress(OSError):
            Path(path).write_bytes(b"")


class _Ended(NamedTuple):
    """How processes have ended.

    has_died: whether one of them has, so that starting them again may help. reason: why, without a full stop.
    """

    status: int
    has_died: bool = False
    reason: str = ""


def _run(
    command: Sequence[str], processes: int, environment: Mapping[str, str], output: int | None
) -> tuple[_Ended, bytes]:
    """Start all processes once; returns how they have ended, and what they wrote."""
    ranks, readers = list["subprocess.Popen[bytes]"](), list[threading.Thread]()
    written = [b""] * processes
    try:
        for number in range(processes):
            rank = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output if number == 0 or output == subprocess.PIPE else None,
                env={**interpreter.environment(), **_place(number, processes), **environment},
                start_new_session=True,  # a terminal would send Ctrl-C to all of them, and we pass it on
            )
            ranks.append(rank)
            readers.append(threading.Thread(target=_read, args=(rank, written, number), daemon=True))
            readers[-1].start()
        with _passing_signals(ranks) as passed:
            ended = _watch(ranks)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait()
            assert rank.stdin is not None
            rank.stdin.close()
    for reader in readers:
        reader.join()
    return ended._replace(has_died=ended.has_died and not passed), next(filter(None, written), b"")


def _time_of(path: Path) -> int:
    """Return when a file was last written, 0 if it never was."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def is_launched() -> bool:
    """Return whether this process was started by `launch`."""
    return bool(os.environ.get(_LAUNCHED))


def end_with_launcher() -> None:
    """Let this process end when the one that launched it ends."""
    if is_launched():
        threading.Thread(target=_end_at_eof, name="danqing-launcher", daemon=True).start()


def _end_at_eof() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _place(rank: int, processes: int) -> dict[str, str]:
    numbers = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
    own = {name: str(number) for name, number in numbers.items()}
    if sys.platform == "linux":  # else others on the network could reach the processes
        own["GLOO_SOCKET_IFNAME"] = "lo"
    return {**own, _LAUNCHED: "1"}


def _read(rank: "subprocess.Popen[bytes]", written: list[bytes], number: int) -> None:
    if rank.stdout is not None:
        with rank.stdout:
            written[number] = rank.stdout.read()


def _watch(ranks: "Sequence[subprocess.Popen[bytes]]") -> _Ended:
    """Wait for all ranks; returns how the first that failed has ended, or that all are well."""
    failed, reason, since = 0, "", 0.0
    while True:
        statuses = [rank.poll() for rank in ranks]
        if statuses[0] is not None:
            since = since or time.monotonic()
        for number, status in enumerate(statuses):
            if status and failed in (0, LOST) and status != failed:
                failed, since = status, since or time.monotonic()
                reason = _reason(number, len(ranks), status)
        if None not in statuses or (since and time.monotonic() - since > _GRACE_SECONDS):
            has_died = failed < 0 or failed == LOST
            return _Ended(failed if failed >= 0 else 128 - failed, has_died, reason)
        time.sleep(_GLANCE_SECONDS)


def _reason(rank: int, processes: int, status: int) -> str:
    if status >= 0:
        return "The processes of this run have lost each other"
    name = signal.Signals(-status).name
    return f"Process {rank + 1} of {processes} was ended by {name}, perhaps for lack of memory"


@contextlib.contextmanager
def _passing_signals(ranks: "Sequence[subprocess.Popen[bytes]]") -> Iterator[list[int]]:
    """Pass Ctrl-C and SIGTERM on to all ranks; gives a list of those that were passed on."""
    passed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield passed
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield passed
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
