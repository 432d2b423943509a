"""The pages of the documentation, and what they say can be typed."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from danqing.cli import commands as cli

ROOT = Path(__file__).parents[2]
COMMANDS = cli.command().commands
READMES = {".md": ROOT / "README.md", ".zh.md": ROOT / "README.zh-CN.md"}
_INLINE = r"`(?P<inline>danqing [a-z][^`]*)`"
FENCE = re.compile(r"^( *)```(\w*).*?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"[A-Z_]+=\S+")
_PROGRAM = re.compile(r"(?:\S*/)?danqing")


class Command(NamedTuple):
    """One line that calls danqing.

    variables: that are set before it. words: without `danqing`. into: the file that `>` writes.
    piped: the command after `|`.
    """

    line: str
    variables: dict[str, str]
    words: list[str]
    into: str = ""
    piped: str = ""


class Code(NamedTuple):
    """One block of Python."""

    text: str


def pages(ending: str = ".md") -> list[Path]:
    """Return the pages in one language, whose names end in .md or .zh.md, and its README."""
    names = sorted((ROOT / "docs").glob(f"*{ending}"))
    return [
        READMES[ending],
        *(path for path in names if path.name.endswith(".zh.md") == (ending == ".zh.md")),
    ]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language, in their order."""
    return [code for _, found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def typed(page: Path) -> Iterator[Command | Code]:
    """Yield the commands and the Python blocks of a page in their order, those within sentences too.

    What shows the syntax, with `[--options]` or `NAMES`, is no command, and neither is what lacks arguments.
    """
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(f"(?ms:{FENCE.pattern})|{_INLINE}", text):
        _, language, block, inline = found.groups()
        if inline is not None:
            command = _command(re.sub(r"\s+", " ", inline))
            if command is not None and is_complete(command.words):
                yield command
        elif language == "python":
            yield Code(block)
        elif language in ("", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                command = _command(line)
                if command is not None:
                    yield command


def is_complete(words: Sequence[str]) -> bool:
    """Whether a command within a sentence can be typed as it is."""
    if any(re.search(r"\b[A-Z]{2,}|\b[A-Z]$|[*|…]|--help", word) for word in words):
        return False
    command, rest = COMMANDS[words[0]], list(words[1:])
    if hasattr(command, "commands") and rest:
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        return bool(rest) and command.make_context(words[0], rest) is not None
    except typer.BadParameter.__bases__[0]:
        return False


def commands(page: Path) -> list[Command]:
    """Return the commands of a page."""
    return [one for one in typed(page) if isinstance(one, Command)]


def _command(line: str) -> Command | None:
    line, _, piped = line.partition(" | ")
    if not re.match(rf"(?:{_VARIABLE.pattern} )*{_PROGRAM.pattern} ", line):
        return None
    words, variables = shlex.split(line, comments=True), {}
    while _VARIABLE.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    words = words[1:]
    if any(word.startswith("[-") for word in words):
        return None
    into = words[-1] if ">" in words else ""
    if into:
        words = words[: words.index(">")]
    return Command(re.sub(r"\s+#.*", "", line).strip(), variables, words, into, piped.strip())
