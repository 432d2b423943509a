"""A pass over images: which sources and records it reads, what it keeps of them, and what it changes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from danqing.data.cleaned import cleaned
from danqing.data.headers import described
from danqing.data.layout import Declared
from danqing.data.records import Loaded, Record, Source
from danqing.data.shards.shard_file import LONGEST_LABEL, LONGEST_NAME, LONGEST_TEXT, Entry
from danqing.data.shards.source import ShardSource
from danqing.data.shards.table import SPLITS
from danqing.data.sources import find_source
from danqing.data.tally import plain_cell, printable
from danqing.data.terms import NO_TERMS, Terms, terms_of
from danqing.errors import ConfigError, DataError, MissingSplitError
from danqing.image_files import MAX_BYTES, Deep, Frame, decode, inspect
from danqing.images import encode
from danqing.names import match
from danqing.progress import ProgressCallback


class Pass(NamedTuple):
    """What a pass over images keeps and changes.

    clean: a clean list, whose images to drop are left out. smallest: the least width and height in pixels.
    captions: a table of captions by name, which replace those that images have.
    """

    clean: str = ""
    smallest: int = 0
    captions: str = ""
    ignore_reservations: bool = False


KEEP_ALL = Pass()


class Outcome(NamedTuple):
    """A record that was read: its entry, or why there is none."""

    name: str
    entry: Entry | None
    reason: str = ""
    is_left_out: bool = False
    header: tuple[str, tuple[int, int] | None] = ("", None)
    terms: Terms = NO_TERMS


def find_sources(
    data: str | Path, declared: Declared, clean: str, on_progress: ProgressCallback | None
) -> list[tuple[str, Source, tuple[str, ...]]]:
    """Return the splits of some data, with the labels that are selected."""
    found, keys = list[tuple[str, Source, tuple[str, ...]]](), set[str]()
    for split in SPLITS:
        try:
            source, part = find_source(data, split, on_progress, declared)
            source.count()  # a folder looks when it is asked
        except MissingSplitError:
            continue
        if isinstance(source, ShardSource) and source.reader.table.about.codes is not None:
            raise ConfigError(
                f"The shards at {data} hold codes: make a pass over the shards with the images."
            )
        if (key := source.key()) not in keys:  # a single file may serve as several splits
            keys.add(key)
            found.append((split, cleaned(source, split, clean) if clean else source, part))
    if not found:
        raise DataError(f"There are no images at {data}.")
    return found


def read_record(record: Record, part: tuple[str, ...], changes: Pass, captions: Mapping[str, str]) -> Outcome:
    """Read a record, and decide whether it is kept.

    part: the labels that are selected, all if there are none.
    captions: by name, instead of those that records have.
    """
    name = printable(record.name) or ""
    if part and (record.label is None or match(record.label, part) is None):
        return Outcome(name, None, "of another label", is_left_out=True)
    try:
        content = _file_of(record.load())
        partner = b"" if record.source is None else _file_of(record.source())
        header = inspect(content)
        terms = terms_of(content)
        if partner:
            terms = terms.with_partner(terms_of(partner))
    except DataError as error:
        return Outcome(name, None, printable(str(error)) or "")
    told = described(content)
    if min(header.size) < changes.smallest:
        return Outcome(name, None, f"smaller than {changes.smallest} pixels", is_left_out=True)
    text = captions.get(name, printable(record.text) or "")
    values, label = list(map(plain_cell, record.attributes)), printable(record.label)
    for what, value, longest in (
        ("name", name, LONGEST_NAME),
        ("label", label or "", LONGEST_LABEL),
        ("captions", text, LONGEST_TEXT),
        ("attributes", json.dumps(values), LONGEST_TEXT),
    ):
        if len(value.encode("utf-8", "replace")) > longest:
            return Outcome(name[:LONGEST_LABEL], None, f"Too long for a shard: its {what}.")
    entry = Entry(content, name, label, text, partner, values)
    return Outcome(name, entry, header=told, terms=terms)


def _file_of(image: Loaded) -> bytes:
    """Return an image as a file: the original, or a PNG of decoded pixels."""
    if isinstance(image, Path):
        with image.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(f"The file has over {MAX_BYTES // 2**20} MiB: make it smaller first.")
        return content
    if isinstance(image, bytes):
        return image
    if isinstance(image, Deep) or (isinstance(image, Frame) and inspect(image).depth > 8):
        raise DataError("One of several images of more than 8 bits in a file cannot be written as a file.")
    if isinstance(image, Frame):
        return encode(decode(image, alpha="keep"))
    return encode(image)
