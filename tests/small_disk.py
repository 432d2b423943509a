"""A file system of some kilobytes, for what happens when a disk is full."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs user namespaces")


def with_disk(disk: Path, size: str, script: str, *words: str) -> None:
    """Run a script of bash with a new file system at `disk`, which is gone afterwards.

    size: of tmpfs, such as 40m. words: what the script sees as "$@".
    """
    disk.mkdir(exist_ok=True)
    whole = f"mount -t tmpfs -o size={size} tmpfs '{disk}' || exit 99\n{script}"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = ["unshare", "-rm", "bash", "-c", whole, "bash", *words]
    assert subprocess.run(command, env=env, timeout=600).returncode == 0


DANQING = (sys.executable, "-m", "danqing")
