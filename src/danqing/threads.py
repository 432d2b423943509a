"""How many threads a process uses: no more than its CPU quota allows, and as many as there are free cores.

PyTorch's OpenMP runtime reads the environment once, when it is loaded, so importing `danqing` sets the limit
there. Processes that this one starts inherit it.
"""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path

from danqing import control_groups

_COUNT_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
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
        environment["OMP_NUM_THREADS"] = str(min(cores(), physical_cores(_allowed())))


def is_count_chosen(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment sets the number of threads."""
    return any(name in environment for name in _COUNT_NAMES)


class Look:
    """The beginning of a measurement of what other processes do."""

    def __init__(self) -> None:
        self.time, self.others = time.monotonic(), _seconds_of_others()


def free_cores(seconds: float = _LOOK_SECONDS, looks: int = _LOOKS, *, begun: Look | None = None) -> int:
    """Return how many cores other processes leave to this one.

    It is at least one.

    seconds: how long one measurement takes.
    looks: how many measurements at most; the first that finds all cores free is the last, and otherwise the
        best counts, so that a moment's work of another process does not. A core that others keep busy for
        more than half of a measurement is not free. On systems other than Linux, all are.
    begun: the first measurement, if it has begun already. It lasts until now, or for `seconds`.
    """
    most = 1
    for _ in range(looks):
        look, begun = begun or Look(), None
        if look.others is None:
            return cores()
        time.sleep(max(0.0, look.time + seconds - time.monotonic()))
        lasted = max(seconds, time.monotonic() - look.time)
        others = ((_seconds_of_others() or look.others) - look.others) / lasted
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


def physical_cores(processors: Collection[int]) -> int:
    """Count the cores that some logical processors belong to.

    Each counts as one where the system does not report its core.
    """
    return len({_core(number) for number in processors})


def groups(count: int) -> tuple[tuple[int, ...], ...]:
    """Split the processors of this process into groups.

    count: of the groups, one for each of some processes.
    Cores stay whole, and neighbours on a NUMA node stay together, as far as there are enough of them. Without
    a processor for each group, or where processes cannot be bound to processors, there are no groups.
    """
    if not hasattr(os, "sched_setaffinity") or len(_allowed()) < count:
        return ()
    by_core: dict[tuple[int, str], list[int]] = {}
    for number in sorted(_allowed()):
        by_core.setdefault((_node(number), _core(number)), []).append(number)
    units = [by_core[key] for key in sorted(by_core, key=lambda key: (key[0], by_core[key]))]
    if len(units) < count:
        units = [[number] for unit in units for number in unit]
    ends = [len(units) * place // count for place in range(count + 1)]
    return tuple(
        tuple(number for unit in units[start:end] for number in unit)
        for start, end in itertools.pairwise(ends)
    )


def nodes() -> int:
    """Count the NUMA nodes of the processors of this process."""
    return len({_node(number) for number in _allowed()})


def parse_processors(written: str) -> frozenset[int]:
    """Parse a list of processors as Linux writes it, such as "0-3,8".

    Raises ValueError.
    """
    numbers = set[int]()
    for part in written.strip().split(","):
        first, dash, last = part.partition("-")
        numbers.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(numbers)


def _core(number: int) -> str:
    """Return what identifies the core of a logical processor."""
    try:
        return (_TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _node(number: int) -> int:
    """Return the NUMA node of a logical processor, 0 where the system does not report it."""
    for path in _NODES.glob("node[0-9]*/cpulist"):
        with contextlib.suppress(OSError, ValueError):
            if number in parse_processors(path.read_text()):
                return int(path.parent.name.removeprefix("node"))
    return 0
