"""The words of a text by which a picture is found, in any script."""

import re
import unicodedata
from collections.abc import Iterable

MOST_WORDS, LONGEST = 64, 40
_HAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Chinese characters, hangul: no spaces between words
_PARTS = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the words of texts, each once, at most MOST_WORDS.

    Where a script has no spaces, each character and each pair of neighbours is a word.
    """
    found: dict[str, None] = {}
    for text in texts:
        for part in _parts(text):
            if re.match(rf"[{_HAN}]", part):
                found |= dict.fromkeys([*part, *_pairs(part)])
            else:
                found[part[:LONGEST]] = None
    return list(found)[:MOST_WORDS]


def searched(text: str) -> list[str]:
    """Return the words that a search needs, all of them."""
    found: dict[str, None] = {}
    for part in _parts(text):
        is_han = re.match(rf"[{_HAN}]", part)
        found |= dict.fromkeys((_pairs(part) or [part]) if is_han else [part[:LONGEST]])
    return list(found)[:MOST_WORDS]


def _parts(text: str) -> list[str]:
    return _PARTS.findall(unicodedata.normalize("NFKC", text).casefold())


def _pairs(text: str) -> list[str]:
    return [text[at : at + 2] for at in range(len(text) - 1)]
