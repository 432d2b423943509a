"""Output of the command line: messages on stderr, only the result on stdout."""

import contextlib
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from danqing.progress import console, say
from danqing.version import __version__

_LIBRARIES = ("torch", "numpy", "pillow", "safetensors", "pydantic")
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; progress stays on stderr.")
]


def result(payload: Mapping[str, Any], text: str = "", *, as_json: bool) -> None:
    """Print a command's result on stdout.

    `payload` as one JSON object, or `text` for people.
    """
    if as_json:
        sys.stdout.write(json.dumps(plain(payload), ensure_ascii=False, allow_nan=False) + "\n")
    elif text:
        sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def error(message: str, *, as_json: bool) -> None:
    """Print an error on stderr.

    With JSON, also as `{"error": ...}` on stdout.
    """
    console().print(Text.assemble(("Error: ", "bold red"), (message, "red")))
    if as_json:
        result({"error": message}, as_json=True)


def versions() -> None:
    """Print the versions of the main libraries on stderr, without importing them."""
    from importlib import metadata

    known = [f"python {platform.python_version()}"]
    for package in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            known.append(f"{package} {metadata.version(package)}")
    say(f"danqing {__version__}, {', '.join(known)}, {platform.platform()}")


def plain(value: Any) -> Any:
    """Return `value` for JSON.

    Paths become text, and numbers that are not finite become null.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def facts(rows: Mapping[str, Any]) -> str:
    """Return names and values in two aligned columns.

    Rows without a value are left out.
    """
    shown = {name: printable(value) for name, value in rows.items() if value is not None and value != ""}
    width = max(map(len, shown), default=0)
    bold, normal = ("\033[1m", "\033[0m") if Console().is_terminal else ("", "")
    return "".join(f"{bold}{name:<{width}}{normal}  {value}\n" for name, value in shown.items())


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns, the first as the heading.

    Empty columns are left out.
    """
    shown = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    kept = [number for number, width in enumerate(widths) if width]
    lines = ["  ".join(f"{row[n]:<{widths[n]}}" for n in kept).rstrip() for row in shown]
    if Console().is_terminal:
        lines[0] = f"\033[1m{lines[0]}\033[0m"
    return "".join(f"{line}\n" for line in lines)


def printable(value: Any) -> str:
    """Return text without control characters.

    Untrusted names then cannot control the terminal.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
