"""Output of the command line: messages on stderr, only the result on stdout."""

import contextlib
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from danqing.cli import streams
from danqing.locale import translate, translate_exactly
from danqing.progress import console, say
from danqing.version import __version__

_LIBRARIES = ("torch", "numpy", "pillow", "safetensors", "pydantic")
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; progress stays on stderr.")
]


def result(payload: Mapping[str, Any], text: str = "", *, as_json: bool, is_source: bool = False) -> None:
    """Print a command's result on stdout.

    `payload` as one JSON object, or `text` for people. is_source: programs read the text too, so it is not
    translated.

    Raises ConfigError as `streams.write`.
    """
    if as_json:
        is_utf8 = str(sys.stdout.encoding).lower().replace("-", "") == "utf8"
        text = json.dumps(plain(payload), ensure_ascii=not is_utf8, allow_nan=False)
    elif text:
        text = text.rstrip("\n")
        text = text if is_source else "\n".join(map(_line, text.split("\n")))
    streams.write(text + "\n" if text else "")


def error(message: str, *, as_json: bool) -> None:
    """Print an error on stderr, in the chosen language.

    With JSON, also as `{"error": ...}` on stdout, in English.
    """
    console().print(Text.assemble((translate_exactly("Error: "), "bold red"), (translate(message), "red")))
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

    A value of several lines stays in its column. Rows without a value are left out.
    """
    given = {name: printable(value) for name, value in rows.items() if value is not None and value != ""}
    shown = [(translate_exactly(name), translate(value)) for name, value in given.items()]
    width = max((cell_len(name) for name, _ in shown), default=0)
    bold, normal = ("\033[1m", "\033[0m") if Console().is_terminal else ("", "")
    gap = "\n" + " " * (width + 2)
    values = [gap.join(line.strip() for line in value.split("\n")) for _, value in shown]
    names = [f"{bold}{_padded(name, width)}{normal}" for name, _ in shown]
    return "".join(f"{name}  {value}\n" for name, value in zip(names, values, strict=True))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns, the first as the heading.

    Empty columns are left out.
    """
    shown = [[_line(printable(cell).replace("\n", " ")) for cell in row] for row in rows]
    shown[0] = list(map(translate_exactly, shown[0]))
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    kept = [number for number, width in enumerate(widths) if width]
    lines = ["  ".join(_padded(row[n], widths[n]) for n in kept).rstrip() for row in shown]
    if Console().is_terminal:
        lines[0] = f"\033[1m{lines[0]}\033[0m"
    return "".join(f"{line}\n" for line in lines)


def _line(text: str) -> str:
    """Translate a line or a cell. A single word may be a name, and is left."""
    return translate(text) if " " in text.strip() else text


def _padded(text: str, width: int) -> str:
    """Fill text up to a width in the columns of a terminal, of which Chinese characters take two."""
    return text + " " * (width - cell_len(text))


def printable(value: Any) -> str:
    """Return text without control characters.

    Untrusted names then cannot control the terminal.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
