"""The help of all commands in the chosen language."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from danqing import locale
from danqing.locale import line_breaks

_OF_PARAMETER = ("help", "show_default")


def in_language(command: Any) -> None:
    """Make a command and its subcommands show their help in the chosen language."""
    for each in _tree(command):
        each.format_help = functools.partial(_format, each, each.format_help)


def _tree(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _tree(inner)


def is_prose(text: str) -> bool:
    """Return whether a text is for people: not an indented command, nor a single value."""
    return (" " in text.strip() and not text.startswith("  ")) or text.endswith(":")


def _translated(text: str | None) -> str | None:
    """Translate each paragraph; commands stay as they are."""
    parts = (text or "").split("\n\n")
    shown = [locale.translate_exactly(" ".join(part.split())) if is_prose(part) else part for part in parts]
    return text and "\n\n".join(shown)


def _format(command: Any, show: Any, context: Any, formatter: Any) -> None:
    """Show the help of a command; show: does so in English."""
    usage = command.get_usage
    command.get_usage = lambda ctx: usage(ctx).replace("Usage: ", locale.translate_exactly("Usage: "), 1)
    command.epilog = _translated(command.epilog)
    for each in (command, *getattr(command, "commands", {}).values()):
        each.help = _translated(each.help)
        if isinstance(panel := getattr(each, "rich_help_panel", None), str):
            each.rich_help_panel = locale.translate_exactly(panel)
    for parameter in command.get_params(context):
        for name in _OF_PARAMETER:
            text = getattr(parameter, name, None)
            if isinstance(text, str):
                setattr(parameter, name, locale.translate(text))
    with _words_of_panels(), _chinese_line_breaks():
        show(context, formatter)


@contextlib.contextmanager
def _words_of_panels() -> Iterator[None]:
    """Translate the words of Typer around our texts, such as the titles of panels."""
    from typer import rich_utils

    words = {
        name: text for name, text in vars(rich_utils).items() if name.isupper() and isinstance(text, str)
    }
    try:
        for name, text in words.items():
            setattr(rich_utils, name, locale.translate_exactly(text))
        yield
    finally:
        for name, text in words.items():
            setattr(rich_utils, name, text)


@contextlib.contextmanager
def _chinese_line_breaks() -> Iterator[None]:
    """Let Rich divide lines of Chinese, which it takes for words that are too long."""
    text: Any = importlib.import_module("rich.text")
    divide = text.divide_line

    def divided(line: str, width: int, fold: bool = True) -> list[int]:
        if line_breaks.is_chinese(line):
            return line_breaks.divide_line(line, width)
        places: list[int] = divide(line, width, fold)
        return places

    try:
        text.divide_line = divided
        yield
    finally:
        text.divide_line = divide
