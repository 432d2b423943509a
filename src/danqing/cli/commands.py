"""The subcommands, put together with Typer: only the one that is called, where its name is known."""

import copy
import functools
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from danqing import locale, progress
from danqing.cli import help_text, output, overview
from danqing.cli.exit_codes import INTERRUPTED, MISTAKE
from danqing.cli.overview import OPTIONS
from danqing.errors import ConfigError
from danqing.progress import Verbosity
from danqing.version import __version__

NAMES = tuple(name for commands in overview.COMMANDS.values() for name in commands)
"""Of all commands. Each is a module, with a function of that name and its examples, or with an `app`."""
_PLACES = frozenset({"--out", "--each", "--data"})
_FLAGS = frozenset({"--json", "--quiet", "-q", "--verbose", "-v"})
_HOME = re.compile(r"^(--[a-z-]+=|)(~)(?=$|[/\\])")
"""Where a shell leaves `~` as it is: after `--out=`, and everywhere on Windows."""
# Depending on its version, Typer uses click or its own copy of it; both derive BadParameter from UsageError.
_UsageError: type[BaseException] = typer.BadParameter.__bases__[0]


class _Commands(TyperGroup):
    """The command itself, whose help is the overview."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(overview.text())


def _be_quiet(wanted: bool) -> None:
    if wanted:
        _choose(Verbosity.QUIET)


def _be_verbose(wanted: bool) -> None:
    if wanted and progress.verbosity() is not Verbosity.VERBOSE:  # the option may be given twice
        _choose(Verbosity.VERBOSE)
        output.versions()


def _choose(wanted: Verbosity) -> None:
    if progress.verbosity() not in (Verbosity.NORMAL, wanted):
        raise ConfigError("Give --quiet or --verbose, not both.")
    progress.set_verbosity(wanted)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"danqing {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help=OPTIONS["--version"]),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_be_quiet, help=OPTIONS["--quiet"]),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", callback=_be_verbose, help=OPTIONS["--verbose"]),
    ] = False,
) -> None:
    pass


def app(names: Iterable[str] = NAMES) -> typer.Typer:
    """Return the command for Typer, with some subcommands."""
    made = typer.Typer(
        name="danqing",
        cls=_Commands,
        callback=_options,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module = importlib.import_module(f"danqing.cli.{name}")
        if hasattr(module, "app"):
            made.add_typer(module.app)
        else:
            made.command(name, epilog=module.EXAMPLES)(getattr(module, name))
    return made


def command(names: Iterable[str] = NAMES) -> Any:
    """Return the command with some subcommands, in the chosen language.

    These accept --quiet and --verbose wherever they are written.
    """
    made = typer.main.get_command(app(names))
    shared = [copy.copy(option) for option in made.params if option.name in ("quiet", "verbose")]
    for option in shared:
        option.expose_value = False  # their callbacks do all the work
    _add_options(made, shared)
    if locale.language() != locale.ENGLISH:
        help_text.in_language(made)
    return made


def _add_options(group: Any, options: Sequence[Any]) -> None:
    for command in getattr(group, "commands", {}).values():
        command.params.extend(options)
        _add_options(command, options)


def run(words: Sequence[str]) -> int:
    """Run one command; returns its exit code. Raises DanqingError."""
    _reject_empty(words)
    words = [_HOME.sub(lambda found: found[1] + os.path.expanduser(found[2]), word) for word in words]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            return command(_needed(words))(words, prog_name="danqing", standalone_mode=False) or 0
    except _UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # a bare `danqing data` has shown its help
            output.error(_usage_sentence(error), as_json="--json" in words)
        return MISTAKE
    except typer.Abort:
        return INTERRUPTED


def _needed(words: Sequence[str]) -> Sequence[str]:
    """The names of the commands without which some words are not understood."""
    first = next((word for word in words if not word.startswith("-")), None)
    if overview.COMPLETION in os.environ or (first is not None and first not in NAMES):
        return NAMES  # one of them may be meant
    return () if first is None else (first,)


def _reject_empty(words: Sequence[str]) -> None:
    """Raise ConfigError for an empty argument or place.

    It is a variable of a shell that is not set, and would mean the current folder.
    """
    for before, word in zip(["", *words], words, strict=False):
        name, has_value, value = word.partition("=")
        place = name if has_value and not value else before if not word else ""
        if place in _PLACES or (not word and (before in _FLAGS or not before.startswith("-"))):
            raise ConfigError(f"{place if place in _PLACES else 'An argument'} is empty: give a name.")


def _show_warning(
    others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any
) -> None:
    """Say our own warnings as sentences; others: shows those of libraries."""
    if category.__module__.startswith("danqing."):
        progress.say(output.printable(message), style="yellow")
    else:
        others(message, category, *where)


def _usage_sentence(error: BaseException) -> str:
    """Return the usage error as one sentence that says where help is, without Typer's box."""
    message = str(getattr(error, "format_message", error.__str__)()).strip()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "danqing"
    ending = message if message.endswith("?") else message.rstrip(".") + ";"
    return f"{ending} '{command} --help' shows how."
