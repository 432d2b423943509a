"""Names as people read them: compared without Unicode form, case and spacing; decoded from bytes."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

_ARTICLE = re.compile(r"^(?:an?|the) ")
_ENCODINGS = ("gb18030", "cp932", "cp949", "big5", "cp437", "cp866")
"""Encodings of file names that are not UTF-8, the most likely first where several fit equally well."""
_SAMPLE_BYTES = 64_000
_DIGITS = 9
"""The longest number that is taken for an index."""


def normalized(text: str) -> str:
    """Return a name in Unicode's composed form (NFC), without surrounding spaces.

    macOS stores `é` as two characters and other systems as one; people see no difference.
    """
    return unicodedata.normalize("NFC", text).strip()


def first_few(names: Sequence[str]) -> str:
    """Return three names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def comparable(text: str) -> str:
    """Return a name without case, width and spacing.

    `_` and `-` become spaces.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())


def match(wanted: str, names: Sequence[str], captions: Sequence[str] = ()) -> str | None:
    """Find the name that a person means, or None.

    An exact spelling comes first, then one that differs in Unicode form, case, spacing or an article before
    it.

    captions: other names of each name, one text per name, with one of them on each line.
    """
    if wanted in names:
        return wanted
    known, plain = _alternatives(tuple(names), tuple(captions)), comparable(wanted)
    return known.get(plain) or known.get(_without_article(plain))


def match_index(wanted: str | int, names: Sequence[str], captions: Sequence[str] = ()) -> int | None:
    """Find the index of the label that a name or number means.

    A number is the name itself where all names are whole numbers (`0`, `90`, `180`), and an index where they
    are not: it never means one thing for one label and another for the next. None where nothing matches.
    """
    if isinstance(wanted, str) and (found := match(wanted, names, captions)) is not None:
        return names.index(found)
    if isinstance(wanted, str) and not (wanted.isdecimal() and len(wanted) <= _DIGITS):
        return None
    if are_numbers(names):
        return names.index(str(wanted)) if str(wanted) in names else None
    return int(wanted) if 0 <= int(wanted) < len(names) else None


def are_numbers(names: Iterable[str]) -> bool:
    """Return whether all names are whole numbers.

    Examples are class folders `0`, `90` and `180`.
    """
    found = False
    for name in names:
        found = True
        if not re.fullmatch(r"-?[0-9]+", name):
            return False
    return found


def decoded(raw_names: Iterable[bytes]) -> tuple[dict[bytes, str], str]:
    """Decode file names of one archive or folder, in one encoding.

    Returns the text of each name, and the encoding: UTF-8 where all names fit it, otherwise the one that
        makes the most readable text of them together. Bytes that fit no encoding become replacement
        characters.
    """
    raws = list(dict.fromkeys(raw_names))
    encoding = _encoding_of(raws)
    return {raw: normalized(raw.decode(encoding, "replace")) for raw in raws}, encoding


def _encoding_of(raws: Sequence[bytes]) -> str:
    if all(_fits(raw, "utf-8") for raw in raws):
        return "utf-8"
    from charset_normalizer import from_bytes

    # ASCII names say nothing of the encoding and would drown the others.
    telling = [raw for raw in raws if not raw.isascii()]
    sample = b"\n".join(telling)[:_SAMPLE_BYTES]
    fitting = [name for name in _ENCODINGS if all(_fits(raw, name) for raw in telling)]
    found: Mapping[str, float] = {
        one.encoding: one.chaos for one in from_bytes(sample, cp_isolation=list(_ENCODINGS))
    }
    if readable := [name for name in fitting if name in found]:
        return min(readable, key=lambda name: (found[name], _ENCODINGS.index(name)))
    return fitting[0] if fitting else "utf-8"


def _fits(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _alternatives(names: tuple[str, ...], captions: tuple[str, ...]) -> dict[str, str]:
    """Names by what they may be called; captions count where there is one for each name."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(comparable(name), name)
    if len(captions) == len(names):
        for name, caption in zip(names, captions, strict=True):
            for line in caption.split("\n"):
                known.setdefault(comparable(line), name)
    for plain, name in list(known.items()):
        known.setdefault(_without_article(plain), name)
    known.pop("", None)
    return known


def _without_article(plain: str) -> str:
    return _ARTICLE.sub("", plain)


def natural_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a sorting key for natural order: `class 10` follows `class 9`."""
    parts: list[str] = []
    for character in name:
        if parts and character.isdecimal() == parts[-1][-1].isdecimal():
            parts[-1] += character
        else:
            parts.append(character)
    return tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)
