"""The overview of all commands is true, and imports as little as `import danqing` does."""

import os
import subprocess
import sys

import pytest

from danqing import locale
from danqing.cli import commands, main, overview

LOADED = """
import sys
before = set(sys.modules)
{code}
names = {{name for name in set(sys.modules) - before if name.split('.')[0] not in sys.stdlib_module_names}}
print(*sorted(names), file=sys.stderr)
"""
OF_PACKAGE = {"danqing", "danqing.threads", "danqing.control_groups", "danqing.version"}
OF_COMMAND = OF_PACKAGE | {
    *("danqing.errors", "danqing.progress", "danqing.quantities", "danqing.locale"),
    *("danqing.locale.catalogue", "danqing.locale.line_breaks"),
    *("danqing.cli", "danqing.cli.exit_codes", "danqing.cli.overview", "danqing.cli.streams"),
}
RUN = """
import contextlib
from danqing.cli import main
with contextlib.suppress(SystemExit):
    main(["{word}"])
"""


def loaded(code: str) -> set[str]:
    """The modules that some code loads, besides those of Python."""
    environment = os.environ | {"DANQING_LANG": "en"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code=code)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_package_imports_nothing_that_takes_time() -> None:
    assert loaded("import danqing") == OF_PACKAGE


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_overview_imports_no_command_and_not_typer(word: str) -> None:
    seen = loaded(RUN.format(word=word))
    assert {name for name in seen if name.startswith("danqing")} == OF_COMMAND
    assert {name.partition(".")[0] for name in seen} == {"danqing", "rich"}
    assert "rich.cells" in seen  # which knows how wide a text is
    assert "rich.console" not in seen


def test_a_command_imports_no_other() -> None:
    seen = loaded(RUN.format(word="presets"))
    assert {name for name in commands.NAMES if f"danqing.cli.{name}" in seen} == {"presets"}
    assert not {"torch", "numpy"} & seen


def test_the_overview_says_what_the_commands_say() -> None:
    made = commands.command()
    shown = {name: row for rows in overview.COMMANDS.values() for name, row in rows.items()}
    first = {name: each.help.partition("\n\n")[0] for name, each in made.commands.items()}
    assert shown == {name: " ".join(text.split()) for name, text in first.items()}, (
        "A line of COMMANDS in cli/overview.py is the first paragraph of the docstring of the command."
    )
    options = {option.opts[0]: option.help for option in made.params}
    assert options | {"--help": overview.OPTIONS["--help"]} == overview.OPTIONS


@pytest.mark.parametrize("language", locale.LANGUAGES)
@pytest.mark.parametrize("columns", [30, 60, 200])
def test_the_overview_fits_the_terminal(
    language: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("DANQING_LANG", language)
    monkeypatch.delenv(overview.COMPLETION, raising=False)
    for words, code in (["--help"], 0), ([], 2), (["--quiet", "-h"], 0):
        with pytest.raises(SystemExit) as end:
            main(words)
        shown = capsys.readouterr().out
        assert (end.value.code or 0) == code
        assert all(f"\n  {name} " in shown for name in commands.NAMES)
        assert max(map(cell_len, shown.splitlines())) <= max(columns, 45)
