"""Tables, matched with the images that they describe."""

import functools
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from danqing.data import tables
from danqing.data.files import Files
from danqing.data.split_names import split_named
from danqing.data.survey import Survey
from danqing.data.tables import Table, plain_header
from danqing.image_files.formats import is_image_name
from danqing.names import normalized


class Wanted(NamedTuple):
    """Columns that a user has declared, besides those with known names.

    attributes: all of them are read. partner, mask, objects, label_set: the column of the source image, the
    mask, the objects and the several labels of an image is the first of these names that a table has.
    """

    attributes: Sequence[str] = ()
    partner: Sequence[str] = ()
    mask: Sequence[str] = ()
    objects: Sequence[str] = ()
    label_set: Sequence[str] = ()


@dataclass
class Annotation:
    """The values of one image in the tables.

    Several captions have one line each. partner, mask: the names of other images. objects: a cell.
    """

    label: str | None = None
    caption: str | None = None
    split: str | None = None
    partner: str | None = None
    mask: str | None = None
    objects: Any = None
    label_set: tuple[str, ...] | None = None
    attributes: tuple[Any, ...] = ()


@dataclass
class Annotations:
    """The values of images in the tables, by image name.

    read: the tables that were read. missing: paths that tables name but that do not exist, with their splits.
    outside: paths that lead out of the data. folders: the folders below which tables list every image.
    shards: the folders below which folders are shards, not classes, as StyleGAN's tool writes them. label,
    caption, mask, objects, label_set: the source of each, in words; empty if no table has it. headers: those
    of all tables.
    """

    by_image: dict[str, Annotation] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    missing: dict[str, str | None] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    has_splits: bool = False
    label: str = ""
    caption: str = ""
    mask: str = ""
    objects: str = ""
    label_set: str = ""
    headers: dict[str, None] = field(default_factory=dict)

    def split_of(self, image: str) -> str | None:
        """Return the split of an image in a table.

        None if no table has splits or lists the image.
        """
        told = self.by_image.get(image)
        return None if told is None or not self.has_splits else told.split

    def lists_all_but(self, image: str, path: str) -> bool:
        """Return whether a table lists a folder's images, except this one."""
        return image not in self.by_image and any(path.startswith(folder) for folder in self.folders)

    def are_shards(self, path: str) -> bool:
        """Return whether the folders of an image are shards, not classes."""
        return any(path.startswith(folder) for folder in self.shards)


def read_annotations(
    files: Files,
    places: Sequence[str],
    images: Sequence[str],
    survey: Survey,
    wanted: Wanted = Wanted(),  # noqa: B008 (immutable)
) -> Annotations:
    """Read tables and match their rows with the images.

    Raises DataError for a table that is damaged.
    """
    found = Annotations()
    matcher = Matcher(files, images)
    odd = Counter[str]()
    for place in places:
        table = tables.read_table(place, files.read(place))
        if table is None:
            survey.notes.append(f"{place} does not describe images in a known way, and was not read.")
            continue
        inner = files.inner(place)
        base = posixpath.dirname(inner) + "/" if "/" in inner else ""
        found.read.append(place)
        found.tables.append(posixpath.basename(place))
        if posixpath.basename(inner).lower() == "dataset.json":
            found.shards.append(base)
        if table.rows:
            found.folders.append(base)
            _match(found, table, base, matcher, odd, wanted)
    paths = [files.inner(image) for image in images]
    if found.folders and not any(path.startswith(tuple(found.folders)) for path in paths):
        found.folders = [""]  # a table in a folder of its own
    if matcher.by_name_alone:
        odd["paths of the tables were matched by the file name alone"] = matcher.by_name_alone
    survey.notes += [f"{count:,} {sentence}." for sentence, count in odd.items()]
    return found


class Matcher:
    """Finds the image of a path in a table.

    Exactly, else regardless of case, else by a path without the suffix, else by a unique file name.
    """

    def __init__(self, files: Files, images: Sequence[str]) -> None:
        self.by_name_alone = 0
        self._exact: dict[str, str] = {}
        self._caseless: dict[str, str | None] = {}
        self._names: dict[str, str | None] = {}
        self._paths = [(files.inner(image), image) for image in images]
        for path, image in self._paths:
            self._exact[path] = image
            for known, key in (
                (self._caseless, path.casefold()),
                (self._names, posixpath.basename(path).casefold()),
            ):
                known[key] = None if key in known else image  # None: not the only one

    def find(self, base: str, path: str) -> str | None:
        """Return the image at a path relative to `base`, or None.

        base: a folder, empty or ending in `/`.
        """
        written = normalized(path).replace("\\", "/")
        inside = posixpath.normpath(base + written)
        if found := self._exact.get(inside) or self._caseless.get(inside.casefold()):
            return found
        if inside.startswith("../"):
            return None
        if not is_image_name(written) and (found := self._stems.get(inside.casefold())):
            return found
        found = self._names.get(posixpath.basename(written).casefold())
        self.by_name_alone += found is not None
        return found

    @functools.cached_property
    def _stems(self) -> dict[str, str | None]:
        """The images by their paths without suffix, as tables of ids name them."""
        found: dict[str, str | None] = {}
        for path, image in self._paths:
            stem = posixpath.splitext(path)[0].casefold()
            found[stem] = None if stem in found else image
        return found


def _match(
    found: Annotations,
    table: Table,
    base: str,
    matcher: Matcher,
    odd: Counter[str],
    wanted: Wanted,
) -> None:
    columns, rows = table.columns, table.rows
    where = posixpath.basename(table.place)
    headers = {plain_header(header): header for row in rows for header in row}
    attributes = [headers.get(plain_header(name), "") for name in wanted.attributes]
    partner, mask, objects, label_set = (
        next((headers[plain_header(name)] for name in names if plain_header(name) in headers), "")
        for names in wanted[1:]
    )
    label = "" if columns.label in (mask, objects, label_set) else columns.label or ""
    labels = tables.label_texts([_single(row.get(label), odd) for row in rows])
    if label and any(each is not None for each in labels):
        found.label = f"the column '{label}' of {where}"
    for topic, header in (
        ("caption", columns.caption),
        ("mask", mask),
        ("objects", objects),
        ("label_set", label_set),
    ):
        if header:
            setattr(found, topic, f"the column '{header}' of {where}")
    found.has_splits |= columns.split is not None
    found.headers |= dict.fromkeys(headers.values())
    for row, own in zip(rows, labels, strict=True):
        path = str(row[columns.file or ""])
        split = split_of_cell(row.get(columns.split or "")) if columns.split else None
        image = matcher.find(base, path)
        if image is None:
            if posixpath.normpath(base + path.replace("\\", "/")).startswith("../"):
                found.outside.append(path)
            else:
                found.missing[base + path.replace("\\", "/")] = split
            continue
        told = Annotation(
            own,
            tables.caption_text(row.get(columns.caption or "")),
            split,
            _image(row.get(partner), base, matcher) if partner else None,
            _image(row.get(mask), base, matcher) if mask else None,
            row.get(objects) if objects else None,
            tables.several_labels(row.get(label_set)) if label_set else None,
            tuple(row.get(header) if header else None for header in attributes),
        )
        before = found.by_image.setdefault(image, told)
        if before is not told:
            _join(before, told, odd)


def _join(before: Annotation, other: Annotation, odd: Counter[str]) -> None:
    """Add another row of an image: its caption is another caption."""
    lines = [*(before.caption or "").split("\n"), *(other.caption or "").split("\n")]
    before.caption = "\n".join(dict.fromkeys(filter(None, lines))) or None
    if other.label is not None and before.label is None:
        before.label = other.label
    elif other.label not in (None, before.label):
        odd["further rows give an image another label; its first label counts"] += 1
    if not any(not tables.is_missing(value) for value in before.attributes):
        before.attributes = other.attributes
    if other.label_set is not None:
        before.label_set = tuple(dict.fromkeys((*(before.label_set or ()), *other.label_set)))


def _single(value: Any, odd: Counter[str]) -> Any:
    """Return the label in a cell, or None if it holds several."""
    if isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) > 1):
        odd["cells of the label column hold several values and are ignored"] += 1
        return None
    return value


def split_of_cell(value: Any) -> str:
    """Return the split in a cell; "train" if it is empty."""
    return "train" if tables.is_missing(value) else split_named(str(value)) or str(value).strip()


def _image(value: Any, base: str, matcher: Matcher) -> str | None:
    return None if tables.is_missing(value) else matcher.find(base, str(value))
