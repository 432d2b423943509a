"""The format numbers of model and run folders, and which version reads a format that this one does not."""

import re
from collections.abc import Mapping
from typing import Any

MODEL = 1
"""Increase it when an older version could no longer read a new model folder; keep reading older formats."""
RUN = 1
"""Increase it when a run that an older version began would no longer resume bit for bit."""
_FIRST = 1
_VERSION = re.compile(r"[0-9][0-9a-z.]{0,30}")


def format_of(values: Mapping[str, Any]) -> int | None:
    """Return the format number of a folder: 1 if it is missing, None if it is not a number."""
    number = values.get("format", _FIRST)
    return number if type(number) is int else None


def writer(version: object) -> str:
    """Return the name of the version that wrote a folder, for a sentence.

    version: the value in the folder, which is untrusted.
    """
    return f"danqing {version}" if _is_version(version) else "another version of danqing"


def install_command(version: object) -> str:
    """Return the command that installs the version that wrote a folder."""
    return f"pip install danqing=={version}" if _is_version(version) else "pip install --upgrade danqing"


def _is_version(version: object) -> bool:
    """Return whether a text is a version and nothing else: users paste the command into a shell."""
    return isinstance(version, str) and bool(_VERSION.fullmatch(version))
