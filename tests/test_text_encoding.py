"""Text files as the editors, spreadsheets and shells of several systems write them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from danqing.cli.judge import read_lines
from danqing.cli.prompts import PromptRow, read
from danqing.data.clean_list import read_clean_list
from danqing.data.shards.captions import read_captions
from danqing.errors import DanqingError
from danqing.service import settings
from danqing.service.training.set_folder import Change, NewImage, SetFolder
from danqing.text_encoding import decode_text, lines_of
from danqing.training.config_reading import read_toml
from danqing.trust.filter_settings import FilterSettings
from danqing.trust.phrases import PhraseList

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
READERS: dict[str, tuple[str, Callable[[Path], object], object]] = {
    "prompts.txt": ("红心\r\n", lambda path: read(path, PromptRow(None, 1, 0, {}))[0].prompt, "红心"),
    "lines.txt": ("红心\r\n", read_lines, ["红心"]),
    "captions.csv": ("file_name;text\r\na.png;红心\r\n", read_captions, {"a.png": "红心"}),
    "phrases.txt": ("红心\r\n", lambda path: len(PhraseList.read(path).phrases), 1),
    "clean.csv": ("split,name,digest,decision\r\n", read_clean_list, ()),
    "run.toml": ('family = "gan" # 红心\r\n', read_toml, {"family": "gan"}),
    "service.toml": ("port = 8 # 红心\r\n", settings.read, {"port": 8}),
}


@pytest.mark.parametrize("read", [read_toml, settings.read, FilterSettings.read])
def test_values_that_no_parser_takes_are_an_error_in_one_sentence(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    for value, why in (("[" * 5000, "nested too deeply"), ("9" * 5000, "5000 digits")):
        (tmp_path / "a.toml").write_text(f"a = {value}")
        with pytest.raises(DanqingError, match=why):
            read(tmp_path / "a.toml")


def test_a_model_whose_name_no_file_can_have_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'[models]\na = "{"b" * 5000}"\n')
    assert settings.read(tmp_path / "a.toml")["models"] == {"a": "b" * 5000}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_what_windows_calls_unicode(tmp_path: Path, name: str, encoding: str) -> None:
    content, reader, expected = READERS[name]
    path = tmp_path / name
    path.write_bytes(content.encode(encoding))
    assert reader(path) == expected


@pytest.mark.parametrize("encoding", ["gbk", "utf-16-le"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_other_encodings_for_text(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes((READERS[name][0] + "红心").encode(encoding))
    with pytest.raises(DanqingError) as caught:
        READERS[name][1](path)
    assert "UTF-8" in str(caught.value)
    assert "codec" not in str(caught.value)


def test_text_in_utf_16_without_its_mark_is_not_taken_for_utf_8() -> None:
    with pytest.raises(UnicodeDecodeError, match="zero byte"):
        decode_text("red".encode("utf-16-le"))


SEPARATORS = ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}line"
    assert lines_of(f"{text}\r\n{text}\r{text}\n\n") == [text, text, text, ""]
    assert lines_of("") == []
    path = tmp_path / "prompts.txt"
    path.write_text(f"{text}\n")
    assert [row.prompt for row in read(path, PromptRow(None, 1, 0, {}))] == [text]
    assert read_lines(path) == [text]
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False) + "\n")
    assert read_captions(captions) == {"a.png": "one line"}


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_caption_with_a_separator_does_not_break_its_data_set(tmp_path: Path, separator: str) -> None:
    folder = SetFolder(tmp_path)
    folder.create()
    folder.add([NewImage("a.png", b"", ".png"), NewImage("b.png", b"", ".png")])
    folder.change([Change("000001.png", text=f"one{separator}line")])
    assert [entry.text for entry in folder.entries()] == [f"one{separator}line", ""]
