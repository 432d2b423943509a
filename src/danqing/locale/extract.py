"""Find all texts that are translated, and bring the catalogues up to date.

`python -m danqing.locale.extract` writes into `locale/*/*.po` what is new, without a translation, and deletes
what is no longer in the code.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from danqing import atomic
from danqing.locale import ENGLISH, LANGUAGES
from danqing.locale.catalogue import read_entries
from danqing.locale.messages import Sources

BY_HAND = "words"
"""The catalogue of single words and of what libraries say, which is kept by hand."""
_SOURCE = Path(__file__).parents[1]


def extract() -> dict[str, dict[str, str]]:
    """Return all templates with the files that they are in, by the name of their catalogue."""
    found: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for room, template, file in Sources(_SOURCE).messages():
        if template not in taken:
            taken.add(template)
            found.setdefault(room, {})[template] = file
    return found


def catalogue_file(language: str, room: str) -> Path:
    """Return the file of a catalogue."""
    return Path(__file__).parent / language / f"{room}.po"


def po_text(templates: Mapping[str, str], known: Mapping[str, str]) -> str:
    """Return a PO file.

    templates: with the files that they are in. known: the translations so far.
    """
    blocks = ['msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n']
    for template, file in templates.items():
        blocks.append(f"#: {file}\nmsgid {_quoted(template)}\nmsgstr {_quoted(known.get(template, ''))}\n")
    return "\n".join(blocks)


def _quoted(text: str) -> str:
    escaped = re.sub(r'([\\"])', r"\\\1", text).replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def main() -> None:
    """Update the catalogues of all languages, and print what has no translation."""
    templates = extract()
    for language in LANGUAGES:
        if language == ENGLISH:
            continue
        files = [file for file in catalogue_file(language, "").parent.glob("*.po") if file.stem != BY_HAND]
        known: dict[str, str] = {}
        for file in files:
            known |= read_entries(file.read_text(encoding="utf-8"))
        for room, entries in templates.items():
            atomic.write_text(catalogue_file(language, room), po_text(entries, known))
            missing = sum(template not in known for template in entries)
            sys.stdout.write(f"{language}/{room}.po: {len(entries)} texts, {missing} without a translation\n")
        for file in files:
            if file.stem not in templates:
                file.unlink()


if __name__ == "__main__":
    main()
