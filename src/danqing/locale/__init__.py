"""The language of the command line. English is the source; a catalogue has the other languages."""

import codecs
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from danqing.errors import ConfigError
from danqing.locale.catalogue import Catalogue, read_entries

ENGLISH = "en"
LANGUAGES = (ENGLISH, "zh")
VARIABLE = "DANQING_LANG"
"""The environment variable that chooses the language; without it, those of the system do."""
_OF_SYSTEM = ("LC_ALL", "LC_MESSAGES", "LANG")
_SAMPLE = "丹青：训练完成。"

_language = ENGLISH


def wanted_language(environment: Mapping[str, str], encodings: Iterable[str | None]) -> str:
    """Return the language that the environment asks for.

    encodings: of the streams to write to. English is returned where one of them cannot show the language.
    Raises ConfigError if DANQING_LANG names no known language.
    """
    given = environment.get(VARIABLE, "").strip()
    named = given or next(filter(None, (environment.get(name) for name in _OF_SYSTEM)), "")
    short = named.lower()[:2] if named[2:3] in ("", "_", "-", ".", "@") else ""
    if given and short not in LANGUAGES:
        raise ConfigError(f"{VARIABLE}={given} is not a known language: write {' or '.join(LANGUAGES)}.")
    known = short if short in LANGUAGES else ENGLISH
    return known if known == ENGLISH or all(map(_shows_chinese, encodings)) else ENGLISH


def _shows_chinese(encoding: str | None) -> bool:
    try:
        _SAMPLE.encode(encoding or "ascii")
        return codecs.lookup(encoding or "ascii").name != "ascii"
    except (LookupError, UnicodeEncodeError):
        return False


def set_language(language: str) -> None:
    """Choose the language of what this process prints from now on."""
    global _language
    _language = language


def language() -> str:
    """Return the language of what this process prints."""
    return _language


def translate(text: str) -> str:
    """Return what is printed in English in the chosen language.

    What the catalogue does not know stays as it is, such as names of files.
    """
    return text if _language == ENGLISH else catalogue(_language).translate(text)


def translate_exactly(text: str) -> str:
    """Return a text that has no values filled in, such as a title, in the chosen language."""
    return text if _language == ENGLISH else catalogue(_language).exact.get(text, text)


@functools.cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of a language, read once."""
    entries: dict[str, str] = {}
    for file in sorted((Path(__file__).parent / language).glob("*.po")):
        entries |= read_entries(file.read_text(encoding="utf-8"))
    return Catalogue(entries)
