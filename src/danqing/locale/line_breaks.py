"""Where lines of Chinese text may end: between any two characters, but not before a comma."""

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_OPENING = "（“《「"
_CLOSING = "，。：；、！？）”》」…"
_CHINESE = re.compile(f"[{_WIDE}]")
_UNIT = re.compile(rf"[{_OPENING}]*(?:[^\s{_WIDE}{_OPENING}{_CLOSING}]+|[{_WIDE}])?[{_CLOSING}]*\s*")


def is_chinese(text: str) -> bool:
    """Return whether a text has Chinese characters or punctuation."""
    return _CHINESE.search(text) is not None


def divide_line(text: str, width: int) -> list[int]:
    """Return the places at which to divide a line into parts of at most `width` columns.

    Latin words stay whole where they fit. Closing marks stay with what they close, and opening marks with
    what they open.
    """
    places, used = [], 0
    for start, unit in _units(text, width):
        length = cell_len(unit)
        if used and used + length > width:
            places.append(start)
            used = 0
        used += length
    return places


def _units(text: str, width: int) -> Iterator[tuple[int, str]]:
    """What must not be divided, with its place; what is wider than a line is cut."""
    start = 0
    while start < len(text):
        found = _UNIT.match(text, start)
        unit = found[0] if found and found[0] else text[start]
        for part in chop_cells(unit, width) if cell_len(unit.rstrip()) > width else [unit]:
            yield start, part
            start += len(part)
