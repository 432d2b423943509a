"""Python processes that Danqing starts: they find the modules that this one finds, in any folder."""

import os
import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours in another process.

    A file of the current folder, such as `random.py`, never takes the place of a module.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which such a process finds the same modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
