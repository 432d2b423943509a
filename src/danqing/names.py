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
    """Decode the file names of one archive or folder.

    The parts of paths are UTF-8, or all in another encoding. Of a mixture, as a folder gets it from several
    systems, the parts that fit UTF-8 are read as UTF-8, and the others together.

    Returns the text of each name, and the encoding of what does not fit UTF-8: the one that makes the most
        readable text of it. Bytes that fit no encoding become replacement characters.
    """
    raws = list(dict.fromkeys(raw_names))
    parts = {part for raw in raws for part in raw.split(b"/") if not part.isascii()}
    others = sorted(part for part in parts if not _fits(part, "utf-8"))
    if not others:
        return {raw: normalized(raw.decode()) for raw in raws}, "utf-8"
    is_mixture = 2 * len(others) < len(parts) or any(map(_is_certainly_utf8, parts.difference(others)))
    encoding = _encoding_of(others if is_mixture else sorted(parts))
    foreign = frozenset(others) if is_mixture else parts

    def text(raw: bytes) -> str:
        return "/".join(
            part.decode(encoding if part in foreign else "utf-8", "replace") for part in raw.split(b"/")
        )

    return {raw: normalized(text(raw)) for raw in raws}, encoding


def _is_certainly_utf8(part: bytes) -> bool:
    """Return whether a name that fits UTF-8 cannot well be another encoding.

    Characters of three bytes arise in others by accident once in 10,000 names; those of two bytes often do:
    `猫` in GBK is `è` in UTF-8.
    """
    return any(character >= "\u0800" for character in part.decode())


def _encoding_of(telling: Sequence[bytes]) -> str:
    """Return the encoding, other than UTF-8, of names that are not ASCII."""
    from charset_normalizer import from_bytes

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
