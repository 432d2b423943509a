"""What Linux's control groups, such as those of containers, leave a process of memory and processor time."""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_NAMES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


class Allowance(NamedTuple):
    """Bytes that all processes of a group may use, and those left."""

    limit: int = sys.maxsize
    free: int = sys.maxsize


_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def memory(groups: Path = _GROUPS, mount: Path = _MOUNT) -> Allowance:
    """Return what the group of this process, and each around it, leaves.

    They are very large numbers without a limit.

    groups: names the groups of a process.
    mount: where all are found.
    """
    allowances = [Allowance()]
    with contextlib.suppress(OSError, ValueError):
        for folder in _folders(groups.read_text(), mount, "memory"):
            for names in _NAMES:
                with contextlib.suppress(OSError, ValueError):
                    allowances.append(_allowance(folder, *names))
    return Allowance(*map(min, zip(*allowances, strict=True)))


def cpus(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float:
    """Return how many processors the group of this process may use.

    The tightest limit of the group and of each around it counts; without a limit, the number is infinite.
    Arguments are those of `memory`.
    """
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        for folder in _folders(groups.read_text(), mount, "cpu"):
            with contextlib.suppress(OSError, ValueError):  # version 2; "max" is not a number
                quota, period = (folder / "cpu.max").read_text().split()
                limits.append(int(quota) / int(period))
            with contextlib.suppress(OSError, ValueError):  # version 1; -1 means no limit
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                limits.append(int(quota) / int(period))
    return min(limit for limit in limits if limit > 0)


def _folders(groups: str, mount: Path, controller: str) -> Iterator[Path]:
    """Yield the groups that may set a controller's limits, the process's own first.

    A container may see only its own group, which is then the outermost.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = controller in controllers.split(",")
        if controllers and not version_1:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        inside = PurePosixPath() if ".." in inside.parts else inside
        for group in (inside, *inside.parents):
            yield mount / controller / group if version_1 else mount / group


def _allowance(folder: Path, limit_name: str, used_name: str, cache_name: str) -> Allowance:
    """Of one group; raises OSError and ValueError where it has no limit. What it holds of files that were not
    used for long is free: it is forgotten when memory is short.
    """
    limit = int((folder / limit_name).read_text())
    used = int((folder / used_name).read_text())
    counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return Allowance(limit, max(0, limit - used + int(counts.get(cache_name, 0))))
