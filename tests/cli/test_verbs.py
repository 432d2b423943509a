"""What the verbs say, without a process of their own."""

import io
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import danqing
from danqing import presets, progress
from danqing.cli import commands, main, output
from danqing.cli.arguments import parse_settings, parse_size, parse_value
from danqing.errors import ConfigError
from danqing.training import config_reading


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


GAN = str(Path(__file__).parents[1] / "golden" / "gan")
MISTAKES = [
    (("train", "/no/where", "--images", "64"), "There is no data at /no/where"),
    (("train", "digits", "--preset", "gan-23"), "There is no preset called 'gan-23'. Did you mean gan-32?"),
    (("train", "digits", "--config", "no.toml"), "There is no configuration file at no.toml"),
    (("train", "digits", "--preset", "gan-32", "--config", "no.toml"), "not both"),
    (("train", "digits", "--images", "64", "--minutes", "1"), "--images or --minutes, not both"),
    (("train", "digits", "--set", "learning_rat=1"), "Did you mean learning_rate"),
    (("train", "digits", "--set", "net"), "--set net is not of the form key=value"),
    (("train", "digits", "--set", "batch_size=many"), "batch_size"),
    (("train", "digits", "--size", "32x"), "--size 32x is not a size"),
    (("train", "digits", "--images", "some"), "'--images'"),
    (("train", "digits", "--device", "abacus", "--images", "64"), "abacus"),
    (("train",), "Missing argument"),
    (("train", "digits", "--minuts", "3"), "No such option: --minuts"),
    (("paint",), "No such command 'paint'"),
    (("sample", "/no/model", "--out", "x.png"), "is not a model folder"),
    (("sample", "/no/model"), "Say where to save the images"),
    (("sample", "/no/model", "--out", "x.gif"), "x.gif has no known image suffix"),
    (("sample", "/no/model", "--out", "x.png", "-n", "0"), "'-n'"),
    (("show", "/no/model"), "is not a model folder"),
    (("presets", "gan-23"), "There is no preset called 'gan-23'"),
    (("demo", "--out", "file/demo"), "file/demo cannot be written"),
    (("export", GAN, "--to", "onnx", "--out", "file/onnx"), "file/onnx cannot be written"),
    (("adapters", "merge", GAN, "any", "--out", "file"), "file is not an empty folder"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()  # no folder can be made of it
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence in err
    code, out, err = run(capsys, *words, "--json")
    assert code == 2
    assert sentence in json.loads(out)["error"]


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(danqing, "load", broken, raising=False)
    with pytest.raises(ZeroDivisionError):
        main(["show", "model"])


def test_ctrl_c_before_the_first_step_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(danqing, "train", interrupted, raising=False)
    code, out, err = run(capsys, "train", "digits")
    assert (code, out) == (130, "")
    assert "the same command resumes" in err


def test_presets_are_listed_and_printed_to_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "presets")
    assert code == 0
    assert {"gan-32", "gan-64", "vae-32", "vae-64"} <= {line.split()[0] for line in out.splitlines()}
    printed = tomllib.loads(run(capsys, "presets", "gan-32")[1])
    assert config_reading.parse(printed) == config_reading.resolve(preset="gan-32")
    assert printed["model"]["spectral_norm"] is False  # what the preset leaves to the defaults is there too
    listed = json.loads(run(capsys, "presets", "--json")[1])["presets"]
    assert [preset["name"] for preset in listed] == presets.names()


def verbs(group: Any, *before: str) -> list[tuple[str, ...]]:
    """The words of every command below a group."""
    found = []
    for name, command in group.commands.items():
        words = (*before, name)
        found += verbs(command, *words) if hasattr(command, "commands") else [words]
    return found


@pytest.mark.parametrize("verb", verbs(commands.command()), ids=" ".join)
def test_every_verb_has_help_with_examples_and_json(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *verb, "--help")
    assert code == 0
    assert "--json" in out
    assert f"danqing {' '.join(verb)}" in out.partition("Examples")[2]


def test_a_bare_group_shows_its_help_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "data")
    assert code == 2
    assert "check" in out + err
    assert "Error" not in out + err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1] == f"danqing {danqing.__version__}\n"


def test_sizes_are_width_by_height() -> None:
    assert (parse_size("32"), parse_size("48x32"), parse_size("48×32")) == ((32, 32), (48, 32), (48, 32))
    for wrong in ("", "x", "3x4x5", "-3", "3.5", "²"):
        with pytest.raises(ConfigError, match="32 for a square"):
            parse_size(wrong)


def test_values_become_what_they_look_like() -> None:
    assert [parse_value(text) for text in ("7", "0.7", "1e-3", "true", "False", "warm")] == [
        7,
        0.7,
        1e-3,
        True,
        False,
        "warm",
    ]


def test_settings_are_split_at_the_first_equals_sign() -> None:
    assert parse_settings(["a.b = 1", "text=x=y"]) == {"a.b": "1", "text": "x=y"}


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    told = output.plain({"a": float("nan"), "b": [1.5, Path("x")], 3: {"c": (True, None)}})
    assert told == {"a": None, "b": [1.5, "x"], "3": {"c": [True, None]}}


def test_brackets_in_file_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("[red]photos[/red]/[1].png")
    output.error("no [bold]such[/] file", as_json=False)
    assert capsys.readouterr().err == "[red]photos[/red]/[1].png\nError: no [bold]such[/] file\n"


def test_the_bar_shows_stages_in_turn_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", lambda: Console(file=screen, force_terminal=True, width=100))
    with progress.Bar() as bar:
        bar.update(5, 10, "Reading [1]")
        bar.update(10, 10, "Reading [1]")
        bar.update(3, 10, "Training", seconds_left=245, detail="3 images")
        bar.say("a line")
    shown = screen.getvalue()
    assert shown.index("Reading [1]") < shown.index("Training")
    assert "4 min 05 s left" in shown
    assert "a line" in shown


def test_without_a_terminal_lines_come_seldom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 4000, 1))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress.Bar() as bar:
        for done in range(1, 31):
            bar.update(done, 30, "Training", detail=f"{done} images")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Training: 37%, 11 images, ")
    assert lines[0].endswith(" left")
