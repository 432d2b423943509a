"""How many threads a process uses: no more than its CPU quota allows, and as many as there are free cores.

PyTorch's OpenMP runtime reads the environment once, when it is loaded, so importing `danqing` sets the limit
there. Processes that this one starts inherit it.
"""

import math
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from danqing import control_groups

_COUNT_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_TIMES = Path("/proc/stat")
_LOOK_SECONDS, _LOOKS = 0.3, 3


def configure(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit the threads to the CPU quota.

    A number that the user has set is kept. Does nothing where torch is imported already, because its threads
    no longer read the environment.
    """
    if "torch" in sys.modules:
        return
    if not is_count_chosen(environment) and cores() < len(_allowed()):
        environment["OMP_NUM_THREADS"] = str(min(cores(), _physical_cores(_allowed())))


def is_count_chosen(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment sets the number of threads."""
    return any(name in environment for name in _COUNT_NAMES)


def free_cores(seconds: float = _LOOK_SECONDS, looks: int = _LOOKS) -> int:
    """Return how many cores other processes leave to this one.

    It is at least one.

    seconds: how long one measurement takes.
    looks: how many measurements at most; the first that finds all cores free is the last, and otherwise the
        best counts, so that a moment's work of another process does not. A core that others keep busy for
        more than half of a measurement is not free. On systems other than Linux, all are.
    """
    most = 1
    for _ in range(looks):
        before = _seconds_of_others()
        if before is None:
            return cores()
        time.sleep(seconds)
        others = ((_seconds_of_others() or before) - before) / seconds
        most = max(most, min(cores(), round(len(_allowed()) - others)))
        if most == cores():
            break
    return most


def _seconds_of_others() -> float | None:
    """The time that other processes have used of these processors; None where the system does not say."""
    busy, allowed = 0.0, _allowed()
    try:
        for line in _TIMES.read_text().splitlines():
            name, *counts = line.split()
            if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in allowed:
                user, nice, system, _idle, _waiting, interrupts, soft = map(int, counts[:7])
                busy += user + nice + system + interrupts + soft
    except (OSError, ValueError):
        return None
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def cores() -> int:
    """Return how many cores this process may keep busy.

    They are those that its affinity and its CPU quota allow. A quota of one and a half cores counts as two.
    """
    return max(1, min(len(_allowed()), math.ceil(min(control_groups.cpus(), sys.maxsize))))


def _allowed() -> frozenset[int]:
    """The numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _physical_cores(processors: frozenset[int]) -> int:
    """How many cores these logical processors belong to; each counts as one where the system does not say."""
    found = set()
    for number in processors:
        try:
            siblings = _TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list"
            found.add(siblings.read_text().strip())
        except OSError:
            found.add(str(number))
    return len(found)
