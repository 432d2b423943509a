"""The command line that repeats a run or a study, as pages and facts quote it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any


def command_line(
    verb: str, data: str, options: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> str:
    """Return `danqing VERB DATA` with its options and settings.

    options: those that are None or "auto" are left out. A size is a tuple (width, height). A name of one
    letter gets one dash. One that is True is a flag.
    """
    words = ["danqing", verb, data]
    for option, value in options.items():
        if value is not None and value != "auto":
            words.append(f"-{option}" if len(option) == 1 else f"--{option}")
            words += [] if value is True else [_text(value)]
    for key, value in (settings or {}).items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def in_one_word(values: Mapping[str, Any] | None) -> str | None:
    """Return settings as an option takes them, such as "epsilon=8,delta=1e-05"."""
    return ",".join(f"{name}={value}" for name, value in values.items()) if values else None


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
