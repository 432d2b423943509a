"""Text as words in which spellings that look alike are equal, to find phrases in it."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator

_LOOK_ALIKES = {
    "a": "αɑаᎪꓮᗅⲁ𐊠⍺",
    "b": "βвьƅᏏᏴꓐᑲᖯᗷꞵ𐊂𐊡",
    "c": "сϲᏟⲥꓚ𐊢𐌂",
    "d": "ԁᎠᏧꓓꓒᑯᗞᗪ",
    "e": "εеҽєᎬꓰ℮ⴹⲉ",
    "f": "քϝꓝᖴ",
    "g": "ցԍᏀᏻꓖᶃ",
    "h": "һнհᎻᏂꓧᕼⲏ",
    "i": "ιіӏꙇⲓɩᎥꓲⵏᛁǀ∣│",
    "j": "јϳᎫꓙᒍ",
    "k": "κкᏦꓗⲕᛕ",
    "l": "Ꮮꓡᒪⳑ",
    "m": "мϻᎷꓟᗰⲙᛖ",
    "n": "ηոռпꓠⲛ",
    "o": "οоσօꓳⲟⵔഠဝჿ〇ዐ",
    "p": "ρрᏢꓑᑭⲣ",
    "q": "գզԛⵕ",
    "r": "гᏒᎡꓣᖇⲅ",
    "s": "ѕꜱտᏕᏚꓢƽ",
    "t": "τтᎢꓔⲧ⊤",
    "u": "υսʋꓴᑌ∪⋃",
    "v": "νѵᏙꓦᐯⴸ∨⋁",
    "w": "ωաԝѡɯᎳᏔꓪ",
    "x": "χхꓫⲭ᙭ᕁ×╳",
    "y": "уүγყᎩᎽꓬⲩ",
    "z": "ζᏃꓜ",
}
"""Letters of other scripts that look like a Latin letter, among others those that Unicode Technical Standard
39 lists. Letters whose Unicode name says which Latin letter they are need no entry."""
_OF_LOOK_ALIKE = {one: letter for letter, alike in _LOOK_ALIKES.items() for one in alike}
_CAPITALS = str.maketrans("ΗΜΝΥϹ", "HMNYC")
"""Greek capitals that look like another Latin letter than their small ones."""
_LATIN_NAME = re.compile(
    r"(?:LATIN (?:SMALL|CAPITAL) LETTER (?:SMALL CAPITAL |SCRIPT |DOTLESS |BLACKLETTER )?"
    r"|LATIN LETTER SMALL CAPITAL |NEGATIVE (?:SQUARED|CIRCLED) LATIN CAPITAL LETTER "
    r"|REGIONAL INDICATOR SYMBOL LETTER )([A-Z])(?: WITH .+)?"
)
_HAS_OPTIONAL_MARKS = ("LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW")
"""Scripts whose marks may be left out without making another word of what is meant."""
_WITHOUT_WORD_SPACES = (
    *("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
    "IDEOGRAPHIC",
)
"""Scripts that are written without spaces, or whose words take endings: each character is a word."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")
_DIGIT_LETTERS = {"0": "o", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "€": "e"}
_LETTER_TABLES = tuple(
    str.maketrans(_DIGIT_LETTERS | {"1": one, "!": one, "|": one, "¡": one}) for one in "il"
)
_CHUNK = re.compile(r"\S+")
_ASCII_WORDS = re.compile("[a-z]+|[0-9]+")
_FEWEST_SPELLED = 3


def words(text: str) -> tuple[str, ...]:
    """Split a text into folded words.

    Compatible forms, case, accents, invisible characters and letters that look alike do not matter (Unicode
    Standard Annex 15; Unicode Technical Standard 39). Letters and digits are words apart, and so is each
    character of a script that is written without spaces.
    """
    return tuple(_words(_folded(text)))


def readings(text: str) -> set[tuple[str, ...]]:
    """Return the words of a text, and other readings of it.

    A person may see other words in it: digits and signs within words as the letters that they replace
    ("nud3"), and letters that stand alone as one word ("n u d e").
    """
    found = set[tuple[str, ...]]()
    for folded in {_folded(text), _folded(text.translate(_CAPITALS))}:
        for table in _LETTER_TABLES:
            found.add(tuple(_words(_CHUNK.sub(functools.partial(_with_letters, table), folded))))
        found.add(tuple(_words(folded)))
    return found | {_joined(one) for one in found}


def _with_letters(table: dict[int, str], chunk: re.Match[str]) -> str:
    """Replace digits and signs by letters, in a chunk that has letters."""
    if not any(map(str.isalpha, chunk[0])):
        return chunk[0]
    return chunk[0].rstrip("!?|").translate(table)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    characters = list[str]()
    drops_marks = False
    for character in unicodedata.normalize("NFKD", text):
        kind, is_mark, has_optional_marks = _fold(character)
        if is_mark and drops_marks:
            continue
        if not is_mark:
            drops_marks = has_optional_marks
        characters.append(kind)
    return unicodedata.normalize("NFC", "".join(characters))


@functools.lru_cache(maxsize=4096)
def _fold(character: str) -> tuple[str, bool, bool]:
    """Return what a character becomes, whether it is a mark, and whether marks on it may be left out."""
    if character.isascii():
        return character, False, character.isalpha()
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category in ("Cf", "Me") or character in _BLANK or name.startswith("VARIATION SELECTOR"):
        return "", True, False
    if category.startswith("M"):
        return character, True, False
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit), False, False
    if letter := _OF_LOOK_ALIKE.get(character):
        return letter, False, True
    if found := _LATIN_NAME.fullmatch(name):
        return found[1].lower(), False, True
    return character, False, name.startswith(_HAS_OPTIONAL_MARKS)


def _words(folded: str) -> Iterator[str]:
    """Yield runs of letters, runs of digits, and single characters of scripts without spaces."""
    if folded.isascii():
        yield from _ASCII_WORDS.findall(folded)
        return
    word, kind = "", ""
    for character in folded:
        found = _kind(character)
        if found == "mark" and word:
            word += character
            continue
        if word and (found != kind or kind == "single"):
            yield word
            word = ""
        if found not in ("", "mark"):
            word += character
        kind = found
    if word:
        yield word


@functools.lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if character.isascii():
        return "letter" if character.isalpha() else "digit" if character.isdigit() else ""
    if unicodedata.category(character).startswith("M"):
        return "mark"
    if not character.isalnum():
        return ""
    is_single = unicodedata.name(character, "").startswith(_WITHOUT_WORD_SPACES)
    return "single" if is_single else "letter"


def _joined(found: tuple[str, ...]) -> tuple[str, ...]:
    """Join letters that stand alone, as in "n u d e"."""
    if sum(map(_is_letter, found)) < _FEWEST_SPELLED:
        return found
    joined = list[str]()
    for is_letter, run in itertools.groupby(found, _is_letter):
        alone = list(run)
        joined += ["".join(alone)] if is_letter and len(alone) >= _FEWEST_SPELLED else alone
    return tuple(joined)


def _is_letter(word: str) -> bool:
    return len(word) == 1 and _kind(word) == "letter"
