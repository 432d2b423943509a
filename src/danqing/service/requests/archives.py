"""Zips of pictures: which entries are edited, under limits, and the zip of the results."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from danqing.image_files.formats import is_image_name
from danqing.service.errors import ApiError, invalid
from danqing.service.settings import Limits

SIGNATURE = b"PK"
MANIFEST = "manifest.jsonl"
MEDIA_TYPE = "application/zip"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of all entries, so that the same results make the same zip."""
_RECORD = b"PK\1\2"
"""How a record of an entry begins in the directory of a zip."""
_MOST_RECORDS = 4
"""Records for each entry that is allowed: folders have records too."""
_MOST_NAME = 512
_MOST_DEPTH = 32


class Contents(NamedTuple):
    """What is in a zip.

    pictures: the names of the entries that are edited. others: those that are not, with the reason.
    """

    pictures: tuple[str, ...]
    others: Mapping[str, str]


def is_archive(content: bytes) -> bool:
    """Return whether a file is a zip."""
    return content.startswith(SIGNATURE)


def contents(content: bytes, limits: Limits, param: str = "image") -> Contents:
    """List a zip without unpacking it.

    param: the field of the request that holds it.

    Raises ApiError if it cannot be read, exceeds the limits or has no pictures, and for names that lead out
    of a folder.
    """
    # Opening a zip reads its whole directory: a million records would take many seconds, and a GB of memory.
    if (records := content.count(_RECORD)) > _MOST_RECORDS * limits.archive_entries:
        raise _too_many(records, limits, param)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # `is_dir` fails for an empty name.
            entries = [one for one in archive.infolist() if not one.filename.endswith("/")]
    except Exception as error:  # zipfile raises anything on a damaged directory
        raise _unreadable(str(error)[:200], param) from None
    if len(entries) > limits.archive_entries:
        raise _too_many(len(entries), limits, param)
    names = [one.filename for one in entries]
    for name in names:
        _check_name(name, param)
    if len(set(names)) < len(names):
        raise _unreadable("two entries have one name", param)
    total = sum(one.file_size for one in entries)
    if total > limits.archive_bytes:
        message = f"The zip unpacks to {total:,} bytes: the limit is {limits.archive_bytes:,}."
        raise ApiError(400, message, param=param, code="archive_too_large")
    others = {one.filename: reason for one in entries if (reason := _reason(one, limits))}
    pictures = tuple(name for name in names if name not in others)
    if not pictures:
        raise invalid("There are no pictures in the zip: their names end in .png, .jpg or .webp.", param)
    return Contents(pictures, others)


def read(content: bytes, name: str) -> bytes:
    """Return an entry of a zip that `contents` has accepted.

    Raises ApiError if it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return read_entry(archive, name)


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return an entry of an open zip, as `read`.

    Many entries are read in one opening, which takes as long as the zip has entries.
    """
    try:
        return archive.read(name)
    except Exception as error:  # decompressors raise anything on hostile input
        raise ApiError(400, f"The entry cannot be unpacked: {error}.", code="image_parse_error") from None


def mask_of(masks: bytes, name: str) -> bytes:
    """Return the mask of a picture from a zip of masks.

    It has the picture's name, or that name as a PNG. Raises ApiError if there is none.
    """
    with zipfile.ZipFile(io.BytesIO(masks)) as archive:
        names = archive.namelist()
    found = next((one for one in (name, str(PurePosixPath(name).with_suffix(".png"))) if one in names), None)
    if found is None:
        raise invalid(f"There is no mask for {name} in the zip of masks: put one there.", "mask")
    return read(masks, found)


class Result(NamedTuple):
    """What became of one picture of a zip.

    outputs: names in the zip of the results. error: why there are none.
    """

    name: str
    outputs: Sequence[str] = ()
    error: str | None = None


def names_of(name: str, n: int, format: str | None, taken: set[str]) -> list[str]:
    """Return the names of the results of a picture.

    n: of several versions, each is in a folder of its own, `1/`, `2/` and so on.
    format: of the results; None is that of the picture. taken: names in use, to which these are added.
    """
    path = PurePosixPath(name)
    endings = {"jpeg": (".jpg", ".jpeg"), None: (path.suffix,)}.get(format, (f".{format}",))
    if path.suffix.lower() not in endings and path.suffix not in endings:
        path = path.with_suffix(endings[0])
    while str(path) in taken:  # a.jpg and a.png, both as png
        path = path.with_name(path.name + endings[0])
    taken.add(str(path))
    return [str(path) if n == 1 else f"{number + 1}/{path}" for number in range(n)]


class Packer:
    """Writes the zip of the results in memory.

    The same results make the same zip.
    """

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._archive = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)

    def add(self, name: str, content: bytes) -> None:
        """Add a file."""
        entry = zipfile.ZipInfo(name, _EPOCH)
        entry.external_attr = 0o644 << 16
        self._archive.writestr(entry, content)

    def finish(self, results: Iterable[Result], facts: Mapping[str, Any]) -> bytes:
        """Add the manifest, one JSON object a line, and return the zip.

        facts: of all results.
        """
        lines = [json.dumps(_described(result, facts), ensure_ascii=False) + "\n" for result in results]
        self.add(MANIFEST, "".join(lines).encode())
        self._archive.close()
        return self._buffer.getvalue()


def _described(result: Result, facts: Mapping[str, Any]) -> dict[str, Any]:
    if result.error is not None:
        return {"name": result.name, "error": result.error}
    return {"name": result.name, "outputs": list(result.outputs), **facts}


def _check_name(name: str, param: str) -> None:
    """Raise ApiError for a name that may lead out of the folder that a zip is unpacked into."""
    parts = name.split("/")
    outside = name.startswith("/") or "\\" in name or "\0" in name or ":" in parts[0]
    if outside or any(part in ("", ".", "..") for part in parts):
        raise _unreadable(f"the name {name[:100]!r} is not a path within it", param)
    if len(name) > _MOST_NAME or len(parts) > _MOST_DEPTH:
        raise _unreadable(f"the name {name[:100]!r} is too long or lies too deep", param)


def _reason(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Return why an entry is not edited, None if it is."""
    path = PurePosixPath(entry.filename)
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return "It is a file of a system, and not a picture."
    if not is_image_name(entry.filename):
        return "Its name is not that of a picture."
    if entry.flag_bits & 1:
        return "It is encrypted."
    if entry.file_size > limits.file_bytes:
        return f"It has over {limits.file_bytes:,} bytes: shrink the picture first."
    return None


def _too_many(entries: int, limits: Limits, param: str) -> ApiError:
    message = f"The zip has {entries:,} entries: the limit is {limits.archive_entries:,}."
    return ApiError(400, message, param=param, code="archive_too_large")


def _unreadable(reason: str, param: str) -> ApiError:
    return invalid(f"The zip cannot be read: {reason}.", param, "invalid_archive")
