"""Clean lists: which images of a data set to keep, to drop, or to give another label."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from danqing import atomic
from danqing.errors import DataError
from danqing.text_encoding import decode_text

Decision = Literal["keep", "drop", "relabel"]


class CleanRow(NamedTuple):
    """What is decided about one image, and why.

    split, name: of the image, as its source names them. findings: what is unusual about it, separated by
    semicolons. label: the one that the image has. suggested: the one that it gets if the decision is
    "relabel". like: the image that it repeats. digest: of its file, "" for images that are not files.
    """

    decision: Decision
    split: str
    name: str
    findings: str = ""
    label: str = ""
    suggested: str = ""
    like: str = ""
    digest: str = ""


def write_clean_list(path: str | Path, rows: Iterable[CleanRow]) -> None:
    """Write a clean list as a CSV file, atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CleanRow._fields)
    writer.writerows(rows)
    atomic.write_bytes(path, text.getvalue().encode("utf-8", "replace"))


def read_clean_list(path: str | Path) -> tuple[CleanRow, ...]:
    """Read a clean list.

    Its columns may be in any order, with others among them. Raises DataError, with the line, for a decision
    that is unknown and for an image that is listed twice.
    """
    path = Path(path)
    try:
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"The clean list {path} cannot be read ({error.strerror or error}): write one with "
            "danqing data clean."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"The clean list {path} is not UTF-8 text: save it as CSV in UTF-8.") from error
    try:
        rows = [_row(path, number, row) for number, row in enumerate(_table(path, text), 2)]
    except csv.Error as error:
        raise DataError(f"The clean list {path} is not a CSV file ({error}): save it as CSV.") from error
    counts = Counter((row.split, row.name, row.digest) for row in rows)
    if twice := [name for (_, name, _), count in counts.items() if count > 1]:
        raise DataError(f"The clean list {path} has {twice[0]} more than once: keep one of its lines.")
    return tuple(rows)


def _table(path: Path, text: str) -> Iterable[dict[str, str | None]]:
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if _is_european(first) else ",")
    headers = set(reader.fieldnames or ())
    if missing := [name for name in ("decision", "split", "name") if name not in headers]:
        raise DataError(
            f"The clean list {path} has no column {missing[0]!r}: write it with danqing data clean."
        )
    return reader


def _is_european(header: str) -> bool:
    """Return whether a spreadsheet wrote semicolons, as where commas are for decimals."""
    return header.count(";") > header.count(",")


def _row(path: Path, number: int, cells: dict[str, str | None]) -> CleanRow:
    row = CleanRow(*[cells.get(name) or "" for name in CleanRow._fields])  # type: ignore[arg-type]
    decision = row.decision.strip().lower()
    if decision not in get_args(Decision):
        raise DataError(
            f"Line {number} of the clean list {path} has the decision {row.decision!r}: write keep, drop or "
            "relabel."
        )
    if decision == "relabel" and not row.suggested:
        raise DataError(
            f"Line {number} of the clean list {path} has no label in the column 'suggested': name one."
        )
    return row._replace(decision=cast(Decision, decision))
