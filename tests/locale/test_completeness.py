"""Every text that people read has a translation, and no translation is left over."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from danqing import locale
from danqing.cli import commands, help_text
from danqing.locale import extract
from danqing.locale.catalogue import is_specific, placeholders, read_entries

NOT_YET: set[str] = set()
"""Packages whose messages are not translated completely."""
LANGUAGES = [language for language in locale.LANGUAGES if language != locale.ENGLISH]


@pytest.fixture(scope="module")
def templates() -> dict[str, dict[str, str]]:
    return extract.extract()


@functools.cache
def entries(language: str, room: str) -> dict[str, str]:
    file = extract.catalogue_file(language, room)
    return read_entries(file.read_text(encoding="utf-8")) if file.exists() else {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_template_has_a_translation(templates, language):
    missing = [
        f"{file}: {template}"
        for room, found in templates.items()
        if room not in NOT_YET
        for template, file in found.items()
        if template not in entries(language, room)
    ]
    assert not missing, "run python -m danqing.locale.extract, then translate:\n" + "\n".join(missing)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_is_left_over(templates, language):
    known = {room: set(found) for room, found in templates.items()}
    for file in extract.catalogue_file(language, "").parent.glob("*.po"):
        if file.stem != extract.BY_HAND:
            over = entries(language, file.stem).keys() - known.get(file.stem, set())
            assert not over, f"run python -m danqing.locale.extract: {file.name} has {over}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_agree(language):
    for file in extract.catalogue_file(language, "").parent.glob("*.po"):
        for english, translation in read_entries(file.read_text(encoding="utf-8")).items():
            assert set(placeholders(english)) == set(placeholders(translation)), f"{file.name}: {english}"


def test_every_template_is_specific_enough_to_be_recognized():
    for file in extract.catalogue_file("zh", "").parent.glob("*.po"):
        for english in read_entries(file.read_text(encoding="utf-8")):
            assert is_specific(english) or not placeholders(english), f"{file.name}: {english}"


def test_no_message_asks_a_command_line_for_an_argument_of_python(templates):
    told = [english for found in templates.values() for english in found if re.search(r"\w=\.\.\.", english)]
    assert not told


def test_options_and_commands_in_translations_stay_as_they_are():
    option = re.compile(r"--[a-z][a-z-]+")
    for file in extract.catalogue_file("zh", "").parent.glob("*.po"):
        for english, translation in read_entries(file.read_text(encoding="utf-8")).items():
            assert set(option.findall(english)) == set(option.findall(translation)), f"{file.name}: {english}"


def _help_texts(command: Any) -> Iterator[str]:
    for text in (command.help, command.epilog):
        yield from (" ".join(part.split()) for part in _paragraphs(text))
    for parameter in command.params:
        yield from filter(None, (getattr(parameter, "help", None),))
        if isinstance(shown := getattr(parameter, "show_default", None), str) and " " in shown:
            yield shown
    for inner in getattr(command, "commands", {}).values():
        yield from _help_texts(inner)


def _paragraphs(text: str | None) -> list[str]:
    return [part for part in (text or "").split("\n\n") if part and not part.startswith("  ")]


def test_the_whole_help_has_translations():
    known = locale.catalogue("zh")
    shown = {text for text in _help_texts(commands.command()) if text not in known.exact}
    missing = sorted(text for text in shown if known.translate(text) == text)
    assert not missing, "run python -m danqing.locale.extract, then translate"


def test_prose_is_told_from_commands():
    assert help_text.is_prose("Print the version and exit.")
    assert help_text.is_prose("Examples:")
    assert not help_text.is_prose("  danqing data list --json")
    assert not help_text.is_prose("runs/...")
