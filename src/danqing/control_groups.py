"""What Linux's control groups, such as a container is, leave a process of the machine's memory."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_NAMES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


class Allowance(NamedTuple):
    """Bytes that all processes of a group may take together, and those that are left of them."""

    limit: int = sys.maxsize
    free: int = sys.maxsize


def memory(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> Allowance:
    """What the group of this process, and each around it, leaves; very large numbers without a limit.

    groups: names the groups of a process; mount: where all are found.
    """
    allowances = [Allowance()]
    with contextlib.suppress(OSError, ValueError):
        for folder in _folders(groups.read_text(), mount):
            for names in _NAMES:
                with contextlib.suppress(OSError, ValueError):
                    allowances.append(_allowance(folder, *names))
    return Allowance(*map(min, zip(*allowances, strict=True)))


def _folders(groups: str, mount: Path) -> Iterator[Path]:
    """Of the groups that may limit memory. A container may see its own alone, which is then the outermost."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        inside = PurePosixPath() if ".." in inside.parts else inside
        for group in (inside, *inside.parents):
            yield mount / "memory" / group if version_1 else mount / group


def _allowance(folder: Path, limit_name: str, used_name: str, cache_name: str) -> Allowance:
    """Of one group; raises OSError and ValueError where it has no limit. What it holds of files that were not
    used for long is free: it is forgotten when memory is short.
    """
    limit = int((folder / limit_name).read_text())
    used = int((folder / used_name).read_text())
    counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return Allowance(limit, max(0, limit - used + int(counts.get(cache_name, 0))))
