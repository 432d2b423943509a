"""Tables that describe images: the meaning of columns, and empty cells, in all formats alike."""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from danqing.errors import DataError
from danqing.names import normalized
from danqing.text_encoding import decode_text

TABLES = (
    *("metadata.jsonl", "metadata.ndjson", "metadata.csv", "metadata.tsv", "metadata.parquet"),
    *("metadata.json", "dataset.json"),
)
"""Names of files that describe the images beside and below them."""
ENDINGS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".json")

FILES = (
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "path",
    "file",
    "image_path",
    "image_file",
    "image",
)
IMAGES = ("image", "img", "picture", "jpg", "png", "webp", "jpeg", "bytes")
LABELS = ("label", "labels", "label_name", "class", "class_name", "cls", "category", "fine_label", "target")
CAPTIONS = ("text", "texts", "caption", "captions", "prompt", "prompts", "description", "title")
SPLITS = ("split", "partition", "subset")

_MISSING = frozenset(["", "nan", "<na>", "nat", "null"])
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


class Columns(NamedTuple):
    """The names of the known columns; None if there is none."""

    file: str | None = None
    label: str | None = None
    caption: str | None = None
    split: str | None = None


class Table(NamedTuple):
    """The rows of one table, and the meaning of its columns.

    rows: by stripped header. place: the path of the table.
    """

    place: str
    rows: list[dict[str, Any]]
    columns: Columns


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty.

    Null, NaN, blank, or the word `nan` that pandas writes.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in _MISSING


def find_columns(headers: Iterable[str], has_value: Callable[[str], bool] = lambda header: True) -> Columns:
    """Choose the column of each meaning by its header.

    Of several, the first of our list with a value.
    """
    by_plain: dict[str, str] = {}
    for header in headers:
        by_plain.setdefault(plain_header(header), header)

    def first(known: Sequence[str]) -> str | None:
        there = [by_plain[name] for name in known if name in by_plain]
        return next(filter(has_value, there), there[0] if there else None)

    return Columns(first(FILES), first(LABELS), first(CAPTIONS), first(SPLITS))


def plain_header(header: str) -> str:
    """Return a header without case, byte-order mark and spaces: ` File Name` is `file_name`."""
    return re.sub(r"[\s\-]+", "_", header.replace("\ufeff", "").strip().casefold())


def find_header(headers: Iterable[str], wanted: str) -> str | None:
    """Return the header that a user means by a name, or None."""
    return next((header for header in headers if plain_header(header) == plain_header(wanted)), None)


def label_texts(values: Sequence[Any]) -> list[str | None]:
    """Return the label of each row, None if it is missing.

    If all numbers of the column are whole, `2.0`, as spreadsheets write it, becomes `2`. A list with one item
    becomes that item.
    """
    plain = [value[0] if isinstance(value, list | tuple) and len(value) == 1 else value for value in values]
    texts = [None if is_missing(value) else normalized(_text(value)) for value in plain]
    numbers = {text for text in texts if text is not None and re.fullmatch(r"-?[0-9]*\.[0-9]+", text)}
    if numbers and all(_WHOLE.fullmatch(text) for text in numbers):
        texts = [_WHOLE.sub(r"\1", text) if text in numbers else text for text in texts]
    return texts


def several_labels(value: Any) -> tuple[str, ...]:
    """Return the labels in a cell, empty for none.

    A cell is a list, or a text with `;` or `|` between labels. A text without either is split at commas.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, str):
        separator = next((each for each in ";|" if each in value), ",")
        value = value.split(separator)
    texts = label_texts(value if isinstance(value, list | tuple) else [value])
    return tuple(dict.fromkeys(text for text in texts if text))


def caption_text(value: Any) -> str | None:
    """Return the captions in a cell, one per line.

    The cell is a text or a list of texts.

    None if there is none.
    """
    if isinstance(value, list | tuple):
        lines = [" ".join(str(one).split()) for one in value if not is_missing(one)]
        return "\n".join(filter(None, lines)) or None
    return None if is_missing(value) else str(value).replace("\r\n", "\n").replace("\r", "\n").strip() or None


def read_table(place: str, content: bytes) -> Table | None:
    """Read a table by the suffix of its path.

    None for JSON that describes something else.

    Raises DataError for a table that is damaged, with its line.
    """
    ending = place[place.rfind(".") :].lower()
    if ending == ".parquet":
        rows = _parquet_rows(place, content)
    elif ending == ".json":
        found = _json_rows(place, content)
        if found is None:
            return None
        rows = found
    elif ending in (".csv", ".tsv"):
        rows = list(csv_rows(place, decoded_text(place, content)))
    else:
        rows = list(_json_lines(place, decoded_text(place, content)))
    rows = [{header.replace("\ufeff", "").strip(): value for header, value in row.items()} for row in rows]
    headers = dict.fromkeys(header for row in rows for header in row)
    columns = find_columns(headers, lambda header: any(not is_missing(row.get(header)) for row in rows))
    if rows and columns.file is None:
        raise DataError(
            f"{place} has no column of file names: call it 'file_name' (it has {', '.join(headers)})."
        )
    kept = []
    for number, row in enumerate(rows, start=1):
        if all(map(is_missing, row.values())):  # spreadsheets write empty rows below the others
            continue
        if is_missing(row.get(columns.file or "")):
            raise DataError(f"{place}, entry {number}, has no {columns.file}: give each image's path there.")
        kept.append(row)
    return Table(place, kept, columns)


def decoded_text(place: str, content: bytes) -> str:
    """Decode the text of a file; raises DataError."""
    try:
        return decode_text(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8: save it as UTF-8.") from error


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def delimiter_of(text: str) -> str:
    """Return what separates the cells of a table.

    A tab, `;` or `,`, whichever its heading has most of.
    """
    return max("\t;,", key=text.split("\n", 1)[0].count)


def csv_rows(place: str, text: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV table by header.

    Raises DataError with the line.
    """
    delimiter = delimiter_of(text)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    start = end = 0
    try:
        end = len(table.fieldnames or ()) and table.line_num
        for row in table:
            start, end = end, table.line_num
            if not all(map(is_missing, row.pop(None, None) or ())):
                raise DataError(
                    f"{place}, line {table.line_num}, has more cells than columns: quote text with a "
                    f"'{delimiter}' in it."
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{place}, line {table.reader.line_num}, cannot be read as CSV: {error}.") from error
    last = list(io.StringIO(text, newline=""))[start:] if end > start + 1 else []
    if "".join(last).count('"') % 2:  # the last row has swallowed all others
        raise DataError(
            f"{place}, line {start + 1}, opens a quote that nothing closes: close it, or double the quotes "
            "inside a text."
        )


def _json_lines(place: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}, line {number}, is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{place}, line {number}, is not a JSON object: write one object per line.")
            yield row


def _parquet_rows(place: str, content: bytes) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{place} needs pyarrow: pip install 'danqing[parquet]'.") from error
    try:
        return list(parquet.read_table(io.BytesIO(content)).to_pylist())
    except Exception as error:  # pyarrow's errors share no base of their own
        raise DataError(f"{place} cannot be read as a Parquet file ({error}).") from error


def _json_rows(place: str, content: bytes) -> list[dict[str, Any]] | None:
    """Return the rows of a list of objects, of an object by file name, or of StyleGAN's `dataset.json`."""
    try:
        found = json.loads(decoded_text(place, content))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}.") from error
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    if not isinstance(found, dict):
        return None
    if set(found) == {"labels"}:  # StyleGAN: [name, label] pairs, an object, or null for none
        return _stylegan_rows(found["labels"])
    if found and all(isinstance(value, list) for value in found.values()):
        if len({len(value) for value in found.values()}) == 1 and find_columns(found).file is not None:
            return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
        return None
    if found and all(isinstance(value, Mapping) for value in found.values()):
        return [{"file_name": name, **values} for name, values in found.items()]
    if found and all(isinstance(value, str) for value in found.values()) and place.endswith("metadata.json"):
        return [{"file_name": name, "text": value} for name, value in found.items()]
    return None


def _stylegan_rows(labels: Any) -> list[dict[str, Any]] | None:
    pairs = list(labels.items()) if isinstance(labels, Mapping) else labels or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) for pair in pairs):
        return None  # labels of something else
    return [{"file_name": str(pair[0]), "label": pair[1]} for pair in pairs if len(pair) == 2]
