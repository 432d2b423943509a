"""Lists of phrases, one file for each language, and finding them in texts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from danqing.errors import ConfigError
from danqing.text_encoding import decode_text
from danqing.trust.folding import readings, words

MAX_BYTES = 16 * 2**20


class Phrase(NamedTuple):
    """A phrase of a list.

    words: folded, as `folding.words` returns them. is_prefix: whether longer last words match as well.
    list, line: where it stands.
    """

    words: tuple[str, ...]
    is_prefix: bool
    list: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line} of {self.list}"


@dataclass(frozen=True)
class PhraseList:
    """The phrases of one file.

    name: of the file without its ending, such as the code of a language.
    when_low: whether the list counts for requests with low moderation as well.
    """

    name: str
    phrases: tuple[Phrase, ...]
    when_low: bool = True

    @classmethod
    def read(cls, path: Path, *, when_low: bool = True) -> Self:
        """Read a list: UTF-8, one phrase a line.

        Empty lines and lines that begin with # are left out. A phrase that ends in * matches words that begin
        with its last word. Raises ConfigError with the line.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(f"The phrase list {path} is larger than {MAX_BYTES >> 20} MiB: split it.")
            text = decode_text(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"The phrase list {path} cannot be read ({error.strerror or error}): correct its path."
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"The phrase list {path} is not UTF-8 text: save it as UTF-8.") from error
        phrases = [
            _phrase(path, number, line.strip())
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not phrases:
            raise ConfigError(f"The phrase list {path} has no phrases: write one on each line.")
        return cls(path.stem, tuple(phrases), when_low)


class Phrases:
    """Many phrases, to be found in texts.

    The time to search a text does not depend on their number.
    """

    def __init__(self, lists: Iterable[PhraseList]) -> None:
        self._whole: dict[tuple[str, ...], Phrase] = {}
        self._prefixes: dict[tuple[str, ...], Phrase] = {}
        self._longest: dict[int, int] = {}  # letters of the last words in `_prefixes`, by number of words
        for phrase in (phrase for each in lists for phrase in each.phrases):
            count = len(phrase.words)
            longest = self._longest.setdefault(count, 0)
            if phrase.is_prefix:
                self._prefixes.setdefault(phrase.words, phrase)
                self._longest[count] = max(longest, len(phrase.words[-1]))
            else:
                self._whole.setdefault(phrase.words, phrase)

    def find(self, text: str) -> Phrase | None:
        """Return a phrase that a text contains; None if there is none."""
        if not self._longest:
            return None
        for reading in readings(text):
            for place in range(len(reading)):
                for count, longest in self._longest.items():
                    if found := self._at(reading[place : place + count], longest):
                        return found
        return None

    def _at(self, there: tuple[str, ...], longest: int) -> Phrase | None:
        """Return the phrase that some words are; their last word may be longer than that of a prefix."""
        if (found := self._whole.get(there)) is not None:
            return found
        for length in range(1, min(len(there[-1]), longest) + 1):
            if (found := self._prefixes.get((*there[:-1], there[-1][:length]))) is not None:
                return found
        return None


def _phrase(path: Path, number: int, line: str) -> Phrase:
    found = words(line.rstrip("*"))
    if not found:
        raise ConfigError(f"Line {number} of the phrase list {path} has no letters or digits: correct it.")
    return Phrase(found, line.endswith("*"), path.name, number)
