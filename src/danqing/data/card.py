"""The data card: what was found in a data set, in Markdown."""

from collections.abc import Mapping
from typing import Any


def data_card(name: str, rows: Mapping[str, Any]) -> str:
    """Write a data card.

    rows: what was found, by title; empty values are left out.
    """
    shown = {title: value for title, value in rows.items() if value not in (None, "") and title != "Data"}
    lines = [f"# Data card of {plain(name)}", ""]
    lines += [f"- {title}: {plain(value)}" for title, value in shown.items()]
    lines += [
        "",
        "Licences, creators, copyright notices, reservations and personal data are those that the metadata "
        "of the files name. Files without metadata say nothing, which is not a permission.",
    ]
    return "\n".join(lines) + "\n"


def plain(value: Any) -> str:
    """Return a value as one line of plain text.

    Markdown and HTML leave it as it is.
    """
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]#|" else {"<": "&lt;", ">": "&gt;"}.get(c, c) for c in text)
