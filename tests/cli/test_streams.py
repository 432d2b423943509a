"""The streams of a command: encodings without some characters, closed ones, and full disks."""

import io
import json
import sys

import pytest

from danqing.cli import main


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> str:
    """Return what a command prints on a stdout of an encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-16"])
def test_output_fits_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    whole = printed(monkeypatch, "utf-8", "show", "demo")
    assert "橙色" in whole
    shown = printed(monkeypatch, encoding, "show", "demo")
    assert shown.encode("ascii", "backslashreplace") == whole.encode("ascii", "backslashreplace")
    exact = json.loads(printed(monkeypatch, "utf-8", "show", "demo", "--json"))
    assert json.loads(printed(monkeypatch, encoding, "show", "demo", "--json")) == exact


def test_closed_streams_do_not_stop_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    for words, code in (("presets",), 0), (("show", "no-model"), 2):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == code


@pytest.mark.parametrize("words", [("presets",), ("presets", "--json")])
def test_a_result_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as left:
            main(words)
    assert left.value.code == 2
    assert "cannot be written to stdout (No space left on device)" in capsys.readouterr().err
