"""The standard streams: prepared for any text, and written."""

import io
import os
import sys
from typing import TextIO, cast

from danqing.errors import ConfigError

_FAIL = ("strict", "surrogateescape")
"""How streams treat characters that they lack, by default: with an exception, for most of them."""


def prepare() -> None:
    """Let nothing that is printed fail for its characters, or for want of a stream.

    What the encoding of a stream lacks is written as an escape, as Python does on stderr. A stream that is
    closed, as in a service or behind `>&-`, takes or gives nothing.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nothing(mode))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors in _FAIL:
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write text on stdout; raises ConfigError if it cannot be written, as on a full disk."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = _nothing("w")  # or the interpreter would fail to flush it once more
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has what it wants
            return
        raise ConfigError(
            f"The result cannot be written to stdout ({error.strerror}): make room, or send it elsewhere."
        ) from error


def _nothing(mode: str) -> TextIO:
    """Return a stream that takes or gives nothing."""
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))
