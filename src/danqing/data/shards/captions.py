"""Captions for a pass over images: a table of names and captions, in JSON lines or CSV."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from danqing.data import tables
from danqing.errors import DataError
from danqing.text_encoding import decode_text, lines_of, why_unreadable


def read_captions(path: str | Path) -> dict[str, str]:
    """Return the captions of images by their names, one caption per line.

    The table has a column for the names of files and one for captions, as `metadata.jsonl` has. Several rows
    of an image give it several captions. Raises DataError.
    """
    path = Path(path)
    try:
        text = decode_text(path.read_bytes())
        rows = list(_rows(path, text))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The captions {path} cannot be read ({why_unreadable(error)}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"The captions {path} are not JSON lines or CSV ({error}).") from error
    headers = list(dict.fromkeys(header for row in rows for header in row))
    columns = tables.find_columns(headers)
    if columns.file is None or columns.caption is None:
        raise DataError(
            f"The captions {path} need a column file_name and a column text: they have "
            f"{', '.join(headers) or 'none'}."
        )
    found: dict[str, str] = {}
    for row in rows:
        name, caption = row.get(columns.file), row.get(columns.caption)
        if not tables.is_missing(name) and not tables.is_missing(caption):
            lines = [found[str(name)]] if str(name) in found else []
            found[str(name)] = "\n".join([*lines, " ".join(str(caption).split())])
    return found


def _rows(path: Path, text: str) -> Iterable[Mapping[str, Any]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        return tables.csv_rows(str(path), text)
    rows = [json.loads(line) for line in lines_of(text) if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return rows
