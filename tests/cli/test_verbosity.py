"""Every command accepts --quiet and --verbose, before and after its name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from danqing.cli import commands, main


def paths(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, `data` and `data check` among them."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*before, name)
        yield from paths(command, (*before, name))


def run(*words: str, expect: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert (end.value.code or 0) == expect


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((8, 8), 50).save(folder / "one.png")
    return folder


@pytest.mark.parametrize("path", list(paths(commands.command())), ids=" ".join)
@pytest.mark.parametrize("option", ["--quiet", "--verbose"])
def test_every_command_accepts_both(
    path: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((*path, option, "--help"), (option, *path, "--help"), (path[0], option, *path[1:], "-h")):
        run(*words)
        assert option in capsys.readouterr().out


def test_quiet_leaves_the_result_and_errors(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create = ("keys", "create", "--data", str(photo.parent / "service"))
    run(*create, "studio")
    assert "A key for studio" in capsys.readouterr().err
    run(*create, "shop", "--quiet")
    quiet = capsys.readouterr()
    assert quiet.out.count("\n") == 1
    assert quiet.err == ""
    run("--quiet", "data", "check", str(photo / "missing"), expect=2)
    assert capsys.readouterr().err.startswith("Error: ")


def test_verbose_adds_versions_and_the_traceback_of_an_error(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data", "check", str(photo / "missing"))
    run(*words, expect=2)
    assert "Traceback" not in capsys.readouterr().err
    run("-v", *words, "--verbose", expect=2)
    said = capsys.readouterr().err
    assert said.startswith("danqing ")
    assert said.count("torch") >= 1
    assert "DataError" in said
    assert said.splitlines()[-1].startswith("Error: ")


def test_quiet_and_verbose_together_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    run("-q", "presets", "-v", expect=2)
    assert "not both" in capsys.readouterr().err
