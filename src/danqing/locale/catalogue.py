"""Catalogues of translations: PO files, and finding the template that a message was made from."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)(?::([^{}]*))?\}")
_NUMERIC = re.compile(r"[-+ #0-9,._]*[bdeEfFgGn%]|,|0?\d+")
_NUMBER = r"[-+]?(?:[\d.,]+(?:e[-+]?\d+)?|inf|nan)%?"
_ESCAPES = {"n": "\n", "t": "\t"}
_ENDINGS = {".": "。", ";": "；", ":": "：", ",": "，", "!": "！", "?": "？"}
_COUNTED = re.compile(r"(\d[\d,.]*(?: ×)?) (.+)")
_SEPARATORS = ((". ", "。"), ("; ", "；"), (", ", "，"), (" or ", "或"))
_DEPTH = 8
_COMMON = re.compile(r"\b(and|are|at|by|for|in|is|of|or|the|to|with)\b")
_LETTER = re.compile("[A-Za-z]")
_FEWEST_LETTERS = 3
"""Of a template without numbers. What has fewer would match any message."""


def read_entries(text: str) -> dict[str, str]:
    """Return what a PO file translates: the English template to its translation.

    The file has comments, `msgid` and `msgstr`, with continued strings; entries without a translation are
    left out. Raises ValueError for anything else.
    """
    entries: dict[str, str] = {}
    key, value, current = "", "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line[0] == "#":
            continue
        word, quote, rest = line.partition('"')
        if not quote or rest[-1:] != '"' or word not in ("msgid ", "msgstr ", ""):
            raise ValueError(f"Line {number} is not of a PO file: {line}")
        part = rest[:-1]
        if "\\" in part:
            part = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), part)
        current = word or current
        if word == "msgid ":
            if key and value:
                entries[key] = value
            key, value = part, ""
        elif current == "msgid ":
            key += part
        else:
            value += part
    if key and value:
        entries[key] = value
    return entries


def literals(template: str) -> list[str]:
    """Return the text around the placeholders of a template, one more than there are placeholders."""
    return [text for text, _, _ in _pieces(template)]


def placeholders(template: str) -> list[str]:
    """Return the names of the placeholders of a template, in their order."""
    return [name for _, name, _ in _pieces(template) if name]


def _pieces(template: str) -> list[tuple[str, str, str]]:
    """Each piece of text with the name and format of the placeholder after it; the last has none."""
    pieces, text, end = [], "", 0
    for found in _PLACEHOLDER.finditer(template):
        text += template[end : found.start()]
        end = found.end()
        if found[1] is None:
            text += found[0][0]
        else:
            pieces.append((text, found[1], found[2] or ""))
            text = ""
    return [*pieces, (text + template[end:], "", "")]


def is_specific(template: str) -> bool:
    """Return whether a template has enough words to tell which messages were made from it."""
    pieces = _pieces(template)
    words = " ".join(text for text, _, _ in pieces)
    numbers = sum(bool(form and _NUMERIC.fullmatch(form)) for _, _, form in pieces)
    others = len(pieces) - 1 - numbers
    letters = len(_LETTER.findall(_COMMON.sub("", words) if others and not numbers else words))
    return letters >= (_FEWEST_LETTERS if others and not numbers else 2 if others or not numbers else 1)


@dataclass(frozen=True)
class _Template:
    """An English template with placeholders, and its translation.

    longest: its longest literal text, by which it is found.
    weight: the length of all its literal text.
    """

    english: str
    translation: str
    longest: str
    weight: int

    @functools.cached_property
    def patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What matches the messages that are made from the template.

        In the first, a value is as short as possible, in the second as long as possible.
        """
        return self._pattern(".*?"), self._pattern(".*")

    def _pattern(self, value: str) -> re.Pattern[str]:
        parts, seen = [], set()
        for text, name, form in _pieces(self.english):
            parts.append(re.escape(text))
            if name in seen:
                parts.append(f"(?P={name})")
            elif name:
                parts.append(f"(?P<{name}>{_NUMBER if form and _NUMERIC.fullmatch(form) else value})")
                seen.add(name)
        return re.compile("".join(parts), re.DOTALL)


class Catalogue:
    """The translations of one language.

    entries: from English, as templates with {placeholders} where values are filled in.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = entries
        self._known: dict[str, str | None] = {}

    @functools.cached_property
    def exact(self) -> dict[str, str]:
        """The translations of texts without placeholders."""
        known = {}
        for english, translation in self.entries.items():
            if "{" not in english:
                known[english] = translation
            elif not placeholders(english):  # doubled braces alone
                known[literals(english)[0]] = literals(translation)[0]
        return known

    @functools.cached_property
    def _templates(self) -> list[_Template]:
        """Those with placeholders, the most specific first."""
        found = []
        for english, translation in self.entries.items():
            if "{" in english and len(texts := literals(english)) > 1:
                found.append(_Template(english, translation, max(texts, key=len), sum(map(len, texts))))
        return sorted(found, key=lambda template: -template.weight)

    def translate(self, text: str) -> str:
        """Return a message in the language of the catalogue; what is not known stays as it is."""
        return self._translated(text, 0) or text

    def _translated(self, text: str, depth: int) -> str | None:
        if depth > _DEPTH or not _LETTER.search(text):
            return None
        if text not in self._known:
            self._known[text] = self._found(text, depth)
        return self._known[text]

    def _found(self, text: str, depth: int) -> str | None:
        if text in self.exact:
            return self.exact[text]
        if "\n" in text:
            return self._joined(text.split("\n"), "\n", depth)
        bare = text.strip()
        if bare != text:
            inner = self._translated(bare, depth + 1)
            return inner and text.replace(bare, inner, 1)
        if text[-1] in ";," and (ended := self._punctuated(text, depth)):
            return ended
        return (
            self._filled(text, depth)
            or self._punctuated(text, depth)
            or self._introduced(text, depth)
            or self._listed(text, depth)
            or self._counted(text, depth)
            or self._bracketed(text, depth)
            or (self._translated(text[0].lower() + text[1:], depth + 1) if text[0].isupper() else None)
        )

    def _filled(self, text: str, depth: int) -> str | None:
        """The translation of the template that the text was made from.

        Where values can be divided in two ways, that with less English left is right.
        """
        for template in self._templates:
            if template.longest in text and template.patterns[0].fullmatch(text):
                matches = [found.groupdict() for each in template.patterns if (found := each.fullmatch(text))]
                filled = [
                    {name: self._value(value, depth) for name, value in each.items()} for each in matches
                ]
                values = min(filled, key=lambda each: len(_LETTER.findall("".join(each.values()))))
                parts = (piece + values.get(name, "") for piece, name, _ in _pieces(template.translation))
                return re.sub(f"(?<=[{''.join(_ENDINGS.values())}]) +(?=[^ ])", "", "".join(parts))
        return None

    def _value(self, text: str, depth: int) -> str:
        """A value that is filled in. A single word may be a name, and is left."""
        return (self._translated(text, depth + 1) or text) if " " in text.strip() else text

    def _punctuated(self, text: str, depth: int) -> str | None:
        """A sentence whose end has been replaced."""
        if text[-1] in _ENDINGS:
            inner = self._translated(text[:-1], depth + 1)
            return inner and inner.removesuffix("。") + _ENDINGS[text[-1]]
        inner = self.exact.get(f"{text}.") or self._filled(f"{text}.", depth)
        return inner and inner.removesuffix("。")

    def _introduced(self, text: str, depth: int) -> str | None:
        """A message after a name and a colon."""
        parts = split_outside_brackets(text, ": ")
        for cut in range(1, len(parts)):
            name, rest = ": ".join(parts[:cut]), ": ".join(parts[cut:])
            known, inner = self._translated(name, depth + 1), self._translated(rest, depth + 1)
            if inner or known:
                return f"{known or name}：{inner or rest}"
        return None

    def _listed(self, text: str, depth: int) -> str | None:
        """Several sentences, or the parts of a list."""
        for separator, translated in _SEPARATORS:
            parts = split_outside_brackets(text, separator)
            for cut in range(1, len(parts)):  # several parts may be one message
                halves = [separator.join(parts[:cut]), separator.join(parts[cut:])]
                if len(parts) > 2 and any(half in self.exact or f"{half}." in self.exact for half in halves):
                    parts = halves
                    break
            if len(parts) > 1 and (joined := self._joined(parts, translated, depth)):
                return joined
        return None

    def _counted(self, text: str, depth: int) -> str | None:
        """A message after a count."""
        found = _COUNTED.fullmatch(text)
        inner = found and self._translated(found[2], depth + 1)
        return f"{found[1]} {inner}" if found and inner else None

    def _bracketed(self, text: str, depth: int) -> str | None:
        """A message before a remark in brackets."""
        if text[-1] != ")" or (start := text.find(" (")) < 1:
            return None
        outer, remark = text[:start], text[start + 2 : -1]
        found = self._translated(outer, depth + 1), self._translated(remark, depth + 1)
        return f"{found[0] or outer}（{found[1] or remark}）" if any(found) else None

    def _joined(self, parts: list[str], separator: str, depth: int) -> str | None:
        found = [self._translated(part, depth + 1) for part in parts]
        if not any(found):
            return None
        return separator.join(inner or part for inner, part in zip(found, parts, strict=True))


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split text where the separator is not inside round brackets."""
    parts, start, depth = [], 0, 0
    for place, letter in enumerate(text):
        depth = max(depth + (letter == "(") - (letter == ")"), 0)
        if not depth and text.startswith(separator, place):
            parts.append(text[start:place])
            start = place + len(separator)
    return [*parts, text[start:]]
