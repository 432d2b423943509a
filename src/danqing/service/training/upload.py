"""From what is uploaded to the images of a data set, under the limits of the service."""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from danqing.data import tables
from danqing.errors import DataError
from danqing.names import normalized
from danqing.service.errors import ApiError, invalid
from danqing.service.requests import archives, input_pictures
from danqing.service.settings import Limits
from danqing.service.training.set_folder import NewImage
from danqing.text_encoding import decode_text

MOST_LABEL, MOST_TEXT, MOST_SOURCE = 100, 4000, 300
"""The longest label, caption and path of an image, in characters."""
_MOST_TABLE, _MOST_CAPTION = 8 * 1024**2, 8 * MOST_TEXT
"""The largest table and the largest file of a caption, in bytes."""
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_TABLES = tuple(name for name in tables.TABLES if not name.endswith(".parquet"))


class Uploaded(NamedTuple):
    """What was uploaded.

    images: that can be stored. rejected: the others by their names, with the reason.
    """

    images: list[NewImage]
    rejected: dict[str, str]


class About(NamedTuple):
    """What a client says about a file that it uploads.

    source: its path.
    """

    source: str = ""
    label: str = ""
    text: str = ""


def read_upload(files: Sequence[bytes], told: Sequence[About], limits: Limits) -> Uploaded:
    """Read files, or one zip.

    told: about each file, as far as it goes; a zip speaks for itself.

    Nothing is written. Only the headers of images are read. Raises ApiError for a zip that cannot be read or
    exceeds the limits.
    """
    if any(archives.is_archive(file) for file in files):
        if len(files) > 1:
            raise invalid("Send one zip, or several images.", "image")
        return _unpacked(files[0], limits)
    found = Uploaded([], {})
    for number, content in enumerate(files):
        about = told[number] if number < len(told) else About()
        source = shortened(about.source, MOST_SOURCE) or f"image {number + 1}"
        label = about.label or _label_of(source)
        _add(found, source, content, label, about.text, limits)
    return found


def unpacked_bytes(files: Sequence[bytes], limits: Limits) -> int:
    """Return how many bytes a zip unpacks to, 0 for images.

    Raises ApiError as `read_upload`.
    """
    if not archives.is_archive(files[0]):
        return 0
    archives.contents(files[0], limits)
    with zipfile.ZipFile(io.BytesIO(files[0])) as archive:
        return sum(one.file_size for one in archive.infolist())


def shortened(text: Any, most: int) -> str:
    """Return a value as one line of printable text."""
    plain = "" if tables.is_missing(text) else normalized(str(text))
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())[:most]


def _unpacked(content: bytes, limits: Limits) -> Uploaded:
    """Read the images of a zip, with labels and captions from its folders, text files and tables."""
    inside = archives.contents(content, limits)
    found = Uploaded([], {})
    captions = {name.rpartition(".")[0]: name for name in inside.others if name.lower().endswith(".txt")}
    described = {*captions.values(), *(name for name in inside.others if _is_table(name))}
    found.rejected.update({name: why for name, why in inside.others.items() if name not in described})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        told = _tables_in(archive, inside.others, found.rejected)
        for name in inside.pictures:
            try:
                picture = archives.read_entry(archive, name)
            except ApiError as error:
                found.rejected[name] = error.message
                continue
            row = told.get(name, {})
            text = row.get("text") or _caption(archive, captions.get(name.rpartition(".")[0]), found.rejected)
            _add(found, name, picture, row.get("label") or _label_of(name), text, limits)
    return found


def _add(found: Uploaded, source: str, content: bytes, label: str, text: str, limits: Limits) -> None:
    try:
        input_pictures.check(content, limits, "image")
    except ApiError as error:
        found.rejected[source] = error.message
        return
    ending = _ENDINGS[input_pictures.format_of(content)]
    values = shortened(source, MOST_SOURCE), shortened(label, MOST_LABEL), shortened(text, MOST_TEXT)
    found.images.append(NewImage(values[0], content, ending, *values[1:]))


def _label_of(source: str) -> str:
    """Return the folder of an image as its label, if the folder lies in another one.

    A folder that is chosen in a browser, or packed, is the first part of all paths: it says nothing.
    """
    parents = PurePosixPath(source).parts[:-1]
    return parents[-1] if len(parents) > 1 else ""


def _is_table(name: str) -> bool:
    return PurePosixPath(name).name.lower() in _TABLES


def _tables_in(
    archive: zipfile.ZipFile, others: Iterable[str], rejected: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Return labels and captions of the images that tables of a zip describe, by their paths."""
    told: dict[str, dict[str, str]] = {}
    for name in filter(_is_table, others):
        if (raw := _small(archive, name, _MOST_TABLE, rejected)) is None:
            continue
        try:
            table = tables.read_table(name, raw)
        except DataError as error:
            raise invalid(str(error), "image", "invalid_archive") from None
        if table is None or table.columns.file is None:
            continue
        columns, folder = table.columns, name.rpartition("/")[0]
        labels = tables.label_texts([row.get(columns.label or "") for row in table.rows])
        for row, label in zip(table.rows, labels, strict=True):
            path = str(PurePosixPath(folder, str(row[columns.file or ""])))
            told[path] = {
                "label": label or "",
                "text": tables.caption_text(row.get(columns.caption or "")) or "",
            }
    return told


def _caption(archive: zipfile.ZipFile, name: str | None, rejected: dict[str, str]) -> str:
    raw = None if name is None else _small(archive, name, _MOST_CAPTION, rejected)
    try:
        return "" if raw is None else decode_text(raw)
    except UnicodeDecodeError:
        raise invalid(f"{name} is not UTF-8: save it as UTF-8.", "image", "invalid_archive") from None


def _small(archive: zipfile.ZipFile, name: str, most: int, rejected: dict[str, str]) -> bytes | None:
    """Return an entry; None, with the reason in `rejected`, if it has over `most` bytes or is damaged."""
    if archive.getinfo(name).file_size > most:
        rejected[name] = f"It has over {most:,} bytes: shorten it."
        return None
    try:
        return archives.read_entry(archive, name)
    except ApiError as error:
        rejected[name] = error.message
        return None


def read_about(text: str) -> list[About]:
    """Read the field `request` of a form: `{"files": [{"name", "label", "caption"}]}`; raises ApiError."""
    try:
        files = json.loads(text or "{}")["files"] if text else []
        return [About(*(str(one.get(key) or "") for key in ("name", "label", "caption"))) for one in files]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        message = (
            'request must be JSON such as {"files": [{"name": "cats/a.png", "label": "", "caption": ""}]}.'
        )
        raise invalid(message, "request") from None
