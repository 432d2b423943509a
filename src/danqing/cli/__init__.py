"""The command `danqing`: one module per subcommand, which parses, calls the public API and prints."""

import copy
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from danqing import locale, progress
from danqing.cli import (
    adapters,
    attack,
    audit,
    authority,
    cache,
    compare,
    contest,
    data,
    demo,
    distill,
    doctor,
    ema,
    enhance,
    evaluate,
    explain,
    export,
    fill,
    filter,
    help_text,
    index,
    judge,
    keys,
    output,
    predict,
    presets,
    reconstruct,
    replicas,
    report,
    sample,
    seal,
    search,
    serve,
    show,
    shrink,
    sign,
    stylize,
    train,
    translate,
    tune,
    upscale,
    vary,
    verify,
)
from danqing.errors import ConfigError, DanqingError, LostProcessError
from danqing.progress import Verbosity
from danqing.version import __version__

_MISTAKE = 2
_PLACES = frozenset({"--out", "--each", "--data"})
_FLAGS = frozenset({"--json", "--quiet", "-q", "--verbose", "-v"})
# Depending on its version, Typer uses click or its own copy of it; both derive BadParameter from UsageError.
_UsageError: type[BaseException] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="danqing",
    help="Train a generative model on a folder of images, on your own machine.",
    epilog="Start with: danqing demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_be_quiet, help="Print only the result and errors."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", callback=_be_verbose, help="Also print versions and the tracebacks of errors."
        ),
    ] = False,
) -> None:
    pass


def _add(panel: str, *parts: typer.Typer | tuple[Callable[..., None], str]) -> None:
    """Add commands below a title of the help.

    parts: groups of commands, or a command with its examples.
    """
    for part in parts:
        if isinstance(part, typer.Typer):
            app.add_typer(part, rich_help_panel=panel)
        else:
            function, examples = part
            app.command(function.__name__, epilog=examples, rich_help_panel=panel)(function)


_add(
    "Start",
    (demo.demo, demo.EXAMPLES),
    (doctor.doctor, doctor.EXAMPLES),
    (presets.presets, presets.EXAMPLES),
    (show.show, show.EXAMPLES),
)
_add(
    "Data and training",
    data.app,
    (train.train, train.EXAMPLES),
    (compare.compare, compare.EXAMPLES),
    (tune.tune, tune.EXAMPLES),
    (distill.distill, distill.EXAMPLES),
    (ema.ema, ema.EXAMPLES),
    (report.report, report.EXAMPLES),
    adapters.app,
    cache.app,
)
_add(
    "Generate and edit",
    (sample.sample, sample.EXAMPLES),
    (fill.fill, fill.EXAMPLES),
    (vary.vary, vary.EXAMPLES),
    (stylize.stylize, stylize.EXAMPLES),
    (translate.translate, translate.EXAMPLES),
    (upscale.upscale, upscale.EXAMPLES),
    (enhance.enhance, enhance.EXAMPLES),
    (reconstruct.reconstruct, reconstruct.EXAMPLES),
)
_add(
    "Recognize and search",
    (predict.predict, predict.EXAMPLES),
    (index.index, index.EXAMPLES),
    (search.search, search.EXAMPLES),
)
_add(
    "Measure",
    (evaluate.evaluate, evaluate.EXAMPLES),
    (judge.judge, judge.EXAMPLES),
    (contest.contest, contest.EXAMPLES),
    (attack.attack, attack.EXAMPLES),
    (explain.explain, explain.EXAMPLES),
)
_add(
    "Export and serve",
    (export.export, export.EXAMPLES),
    (shrink.shrink, shrink.EXAMPLES),
    (serve.serve, serve.EXAMPLES),
    (replicas.replicas, replicas.EXAMPLES),
    keys.app,
    audit.app,
)
_add(
    "Protect",
    (verify.verify, verify.EXAMPLES),
    (sign.sign, sign.EXAMPLES),
    (seal.seal, seal.EXAMPLES),
    (seal.unseal, seal.UNSEAL_EXAMPLES),
    authority.app,
    filter.app,
)


def whole_command() -> Any:
    """Return the command with all subcommands.

    These accept --quiet and --verbose wherever they are written.
    """
    command = typer.main.get_command(app)
    shared = [copy.copy(option) for option in command.params if option.name in ("quiet", "verbose")]
    for option in shared:
        option.expose_value = False  # their callbacks do all the work
    _add_options(command, shared)
    if locale.language() != locale.ENGLISH:
        help_text.in_language(command)
    return command


def _add_options(group: Any, options: Sequence[Any]) -> None:
    for command in getattr(group, "commands", {}).values():
        command.params.extend(options)
        _add_options(command, options)


def _reject_empty(words: Sequence[str]) -> None:
    """Raise ConfigError for an empty argument or place.

    It is a variable of a shell that is not set, and would mean the current folder.
    """
    for before, word in zip(["", *words], words, strict=False):
        name, has_value, value = word.partition("=")
        place = name if has_value and not value else before if not word else ""
        if place in _PLACES or (not word and (before in _FLAGS or not before.startswith("-"))):
            raise ConfigError(f"{place if place in _PLACES else 'An argument'} is empty: give a name.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    0 success, 2 the user's mistake, 130 interrupted.

    An exception that is not a DanqingError is a bug: it keeps its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    output.prepare_streams()
    try:
        locale.set_language(locale.wanted_language(os.environ, (sys.stdout.encoding, sys.stderr.encoding)))
        _reject_empty(words)
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            sys.exit(whole_command()(words, prog_name="danqing", standalone_mode=False) or 0)
    except DanqingError as error:
        from danqing.cluster.launch import LOST, is_launched

        if isinstance(error, LostProcessError) and is_launched():
            sys.exit(LOST)  # the one that launched it says what happened
        if progress.verbosity() is Verbosity.VERBOSE:
            traceback.print_exception(error)
        output.error(str(error), as_json=as_json)
        sys.exit(_MISTAKE)
    except _UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # a bare `danqing data` has shown its help
            output.error(_usage_sentence(error), as_json=as_json)
        sys.exit(_MISTAKE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(train.INTERRUPTED)
    finally:
        progress.set_verbosity(Verbosity.NORMAL)  # for the next call in this process
        locale.set_language(locale.ENGLISH)


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
