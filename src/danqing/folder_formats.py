"""The formats of folders, and which version reads one that this version does not."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODEL = 1
"""Raise it when an older version could no longer read a new model folder, and keep reading the older ones."""
RUN = 1
"""Raise it when a run that an older version began would no longer go on bit for bit."""
EXPORT = "export.json"
"""The file that makes a folder an export."""
_FIRST = 1
_VERSION = re.compile(r"[0-9][0-9a-z.]{0,30}")


def format_of(values: Mapping[str, Any]) -> int | None:
    """Return the format number in the values of a folder.

    It is 1 where there is none, and None for what is not a number.
    """
    number = values.get("format", _FIRST)
    return number if type(number) is int else None


def is_export(source: str) -> bool:
    """Return whether a source is the folder of an export."""
    return (Path(source) / EXPORT).is_file()


def writer(version: object) -> str:
    """Return what wrote a folder, for a sentence.

    version: as the folder has it, which anyone may have set.
    """
    return f"danqing {version}" if _is_version(version) else "another version of danqing"


def install_command(version: object) -> str:
    """Return the command that installs what wrote a folder."""
    return f"pip install danqing=={version}" if _is_version(version) else "pip install --upgrade danqing"


def _is_version(version: object) -> bool:
    """Return whether it is a version and nothing else, since people paste the command into a shell."""
    return isinstance(version, str) and bool(_VERSION.fullmatch(version))
