"""The rules by which files become images with labels, captions and partners, in folders and archives.

Split: top-level folders, if all are named like splits; otherwise a column `split`.
Label: a column of a table; else `.cls` or `.json` files beside the images; else the first level of folders.
Captions: a column of a table; else `.txt`, `.caption` or `.json` files beside the images.
Pairs and attributes: only as declared, never guessed.
"""

import contextlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from danqing.data import pairs
from danqing.data.annotations import Annotation, Annotations, read_annotations
from danqing.data.files import Files
from danqing.data.side_files import Beside, find_beside, say_something
from danqing.data.split_names import split_named
from danqing.data.survey import Survey
from danqing.data.tables import ENDINGS, TABLES, find_header
from danqing.errors import DataError, MissingSplitError
from danqing.image_files import frames
from danqing.image_files.formats import is_dicom, is_image_name

_KINDS_NAMED = 6
_VOLUMES = (".nii", ".nii.gz")


class Declared(NamedTuple):
    """The user's declarations about the data.

    pairs: "SOURCES:TARGETS" for two folders, "side-by-side" or "side-by-side-reversed" for two halves of one
    image, or the column that names the source image. attributes: columns of numbers, categories or vectors.
    """

    pairs: str = ""
    attributes: tuple[str, ...] = ()

    def key(self) -> tuple[str, ...]:
        """Return what else determines a source's images, besides its files."""
        return (self.pairs, *self.attributes) if any(self) else ()


NOTHING_DECLARED = Declared()


class ImageEntry(NamedTuple):
    """One image: its file, its label and captions, and its side files.

    attributes: cells, in the order of their declaration. partner: the file of its source image. frame: the
    number of the slice, if the file is a volume. missing: why there is no file, if a table names one that
    does not exist.
    """

    name: str
    label: str | None = None
    caption: str | None = None
    beside: Beside = Beside()
    attributes: tuple[Any, ...] = ()
    partner: str | None = None
    frame: int | None = None
    missing: str = ""


@dataclass
class Layout:
    """The images of one split in file order.

    Also an account of all other files.
    """

    rows: list[ImageEntry] = field(default_factory=list)
    survey: Survey = field(default_factory=Survey)


@dataclass
class Found:
    """An image and its folders.

    Without the folders around all images, and without that of its split.
    """

    name: str
    path: str
    folders: list[str]
    split: str | None = None
    partner: str | None = None


def lay_out(files: Files, split: str, declared: Declared = NOTHING_DECLARED) -> Layout:
    """Apply the rules to some files; split: train, test, validation or all.

    Raises DataError if there are no images, and MissingSplitError if the data has no such split.
    """
    layout = Layout()
    survey = layout.survey
    names, others = _sorted(files)
    if not names:
        raise DataError(_why_no_images(files, others))
    images = _located(files, names)
    column, halves = "", declared.pairs in pairs.HALVES
    if declared.pairs and not halves:
        given = pairs.parse_pairs(declared.pairs)
        if isinstance(given, pairs.Folders):
            images = _paired(images, given, survey)
        else:
            column = given
    tables = [name for name in others if posixpath.basename(name).lower() in TABLES]
    told = read_annotations(files, tables, names, survey, declared.attributes, column)
    beside = find_beside([one.name for one in images], [name for name in others if name not in told.read])
    lacking = [name for name in declared.attributes if not find_header(told.headers, name)]
    if lacking and not any(one.json for one in beside.values()):
        raise DataError(
            f"There is no column {lacking[0]!r} for data.attributes: the columns are "
            f"{', '.join(told.headers) or 'none: there is no metadata table'}."
        )
    by_folder = any(one.split for one in images)
    if not by_folder:
        for one in images:
            one.split = told.split_of(one.name)
    kept = _chosen(files, images, split, told, survey)
    layout.rows = _slices(files, _rows(files, kept, told, beside, column, survey), survey)
    layout.rows += _missing(told, split, by_folder, survey)
    survey.understood["Layout"] = _layout_in_words(files, images, told)
    survey.understood["Split"] = _split_in_words(images, split, by_folder)
    _explain_others(files, survey, others, told, beside)
    return layout


def _sorted(files: Files) -> tuple[list[str], list[str]]:
    """Return the names of images, and of all other files."""
    images, others = list[str](), list[str]()
    for name in files.names():
        is_image = is_image_name(name) or (_may_be_dicom(name) and is_dicom(files.head(name)))
        (images if is_image else others).append(name)
    return images, others


def _may_be_dicom(name: str) -> bool:
    """Return whether a file has no suffix, or a number, as scanners do (`IM0001`, `1.2.840.113`)."""
    ending = posixpath.splitext(name)[1]
    return not ending or ending[1:].isdecimal()


# The positions of images


def _located(files: Files, names: Sequence[str]) -> list[Found]:
    paths = [files.inner(name) for name in names]
    root = _wrapper(paths)
    images = [
        Found(name, path[len(root) :], path[len(root) :].split("/")[:-1])
        for name, path in zip(names, paths, strict=True)
    ]
    tops = {one.folders[0] for one in images if one.folders}
    if tops and all(split_named(top) for top in tops):
        for one in images:
            if one.folders:
                one.split = split_named(one.folders.pop(0))
    return images


def _wrapper(paths: Sequence[str]) -> str:
    """Return the folder around all images, which archives often have; a split's folder does not count."""
    root = ""
    while True:
        tops = {path[len(root) :].partition("/")[0] for path in paths}
        top = next(iter(tops))
        if len(tops) != 1 or split_named(top) or any(path == root + top for path in paths):
            return root
        root += top + "/"


def _paired(images: Sequence[Found], folders: pairs.Folders, survey: Survey) -> list[Found]:
    """Return the images of the target folder, each with its partner; leave out the others."""
    places = {one.name: pairs.place_of(one.path, one.split, folders) for one in images}
    sources: dict[str, str] = {}
    for one in images:
        if (place := places[one.name]) and place.folder == folders.sources:
            sources.setdefault(pairs.pair_key(place), one.name)
    if not sources or not any(place and place.folder == folders.targets for place in places.values()):
        raise DataError(
            f"The folders {folders.sources} and {folders.targets} of the pairs do not both hold images: name "
            "two folders below the top of the data."
        )
    paired = []
    used = set()
    for one in images:
        place = places[one.name]
        if place is None:
            survey.leave_out(one.name, f"in neither {folders.sources} nor {folders.targets}")
        elif place.folder == folders.targets:
            partner = sources.get(pairs.pair_key(place))
            if partner is None:
                survey.leave_out(one.name, f"without a partner in {folders.sources}")
                continue
            used.add(partner)
            below = place.rest.split("/")[:-1]
            paired.append(Found(one.name, one.path, below, place.split, partner))
    for name in sources.values():
        if name not in used:
            survey.leave_out(name, f"without a partner in {folders.targets}")
    survey.understood["Pairs"] = (
        f"{len(paired):,} images of {folders.targets}, from those of {folders.sources}"
    )
    return paired


# Which images are wanted


def _chosen(
    files: Files, images: Sequence[Found], split: str, told: Annotations, survey: Survey
) -> list[Found]:
    has_splits = any(one.split for one in images)
    if not has_splits and split not in ("train", "all"):
        raise MissingSplitError(
            f"{files.path} has no {split} split: put its images into train/ and {split}/ to make one."
        )
    kept = []
    for one in images:
        if told.lists_all_but(one.name, files.inner(one.name)):
            survey.leave_out(one.name, f"not listed in {_and(told.tables)}")
        elif has_splits and split not in ("all", one.split):
            where = f"in the {one.split} split" if one.split else "outside the folders of the splits"
            survey.leave_out(one.name, where)
        else:
            kept.append(one)
    known = sorted({one.split for one in images if one.split})
    if has_splits and split != "all" and split not in known:
        advice = "; put the training images into train/" if split == "train" else ""
        raise MissingSplitError(f"{files.path} has no {split} split: it has {_and(known)}{advice}.")
    return kept


# Their labels, captions and attributes


def _rows(
    files: Files,
    kept: Sequence[Found],
    told: Annotations,
    beside: dict[str, Beside],
    partner_column: str,
    survey: Survey,
) -> list[ImageEntry]:
    labels_beside, captions_beside = say_something(list(beside.values()), files.read)
    labels, captions = Counter[str](), Counter[str]()
    rows = []
    for one in kept:
        said = told.by_image.get(one.name, Annotation())
        near = beside.get(one.name, Beside())
        label, source = said.label, told.label
        if not (told.label and one.name in told.by_image):
            if labels_beside:
                label, source = None, "files beside the images"
            elif one.folders and not told.are_shards(files.inner(one.name)):
                label, source = one.folders[0].strip(), "the names of folders"
        if label is not None or (labels_beside and (near.label or near.json)):
            labels[source] += 1
        if said.caption is not None:
            captions[told.caption] += 1
        elif captions_beside and (near.caption or near.json):
            captions["files beside the images"] += 1
        if partner_column and said.partner is None:
            survey.leave_out(one.name, f"without an image in the column '{partner_column}'")
            continue
        near = Beside(
            caption=near.caption if captions_beside and said.caption is None else None,
            label=near.label if labels_beside else None,
            json=near.json,
        )
        rows.append(
            ImageEntry(one.name, label, said.caption, near, said.attributes, one.partner or said.partner)
        )
    survey.understood["Labels"] = _counted(labels, len(rows)) or "none: no class folders, column or files"
    survey.understood["Captions"] = _counted(captions, len(rows)) or _where_captions_were_sought(told, beside)
    return rows


def _slices(files: Files, rows: Sequence[ImageEntry], survey: Survey) -> list[ImageEntry]:
    """Return the rows, with one for each slice of a volume."""
    found, volumes = list[ImageEntry](), 0
    for row in rows:
        count = 1
        if row.name.lower().endswith(_VOLUMES):
            (load,) = files.loaders([row.name])
            with contextlib.suppress(DataError):  # reading it gives the reason
                count = frames(load())
        found += [row] if count == 1 else [row._replace(frame=number) for number in range(count)]
        volumes += count > 1
    if volumes:
        survey.understood["Slices"] = f"{len(found) - len(rows) + volumes:,} slices of {volumes:,} volumes"
    return found


def _missing(told: Annotations, split: str, by_folder: bool, survey: Survey) -> list[ImageEntry]:
    """Return rows for files that tables name but that do not exist; they count as unreadable images."""
    rows = []
    for path in told.outside:
        survey.leave_out(path, f"listed in {_and(told.tables)} by a path that leads out of the data")
    for path, own in told.missing.items():
        if by_folder:
            own = next(filter(None, map(split_named, path.split("/")[:-1])), None)
        if own is not None and split not in ("all", own):
            survey.leave_out(path, f"in the {own} split")
        else:
            rows.append(
                ImageEntry(path, missing=f"It is listed in {_and(told.tables)}, but there is no such file.")
            )
    return rows


# Messages


def _counted(sources: Counter[str], total: int) -> str:
    parts = [name if count == total else f"{name} ({count:,} images)" for name, count in sources.items()]
    if sources and sum(sources.values()) < total:
        parts.append(f"none for {total - sum(sources.values()):,} images")
    return "; ".join(parts)


def _where_captions_were_sought(told: Annotations, beside: dict[str, Beside]) -> str:
    looked = [f"columns of {_and(told.tables)}"] if told.tables else ["a metadata table (there is none)"]
    texts = sum(1 for one in beside.values() if one.caption)
    looked.append(
        f"text files beside the images ({texts:,}, which hold numbers alone)"
        if texts
        else "text files beside the images (there are none)"
    )
    return f"none: looked for in {' and '.join(looked)}"


def _layout_in_words(files: Files, images: Sequence[Found], told: Annotations) -> str:
    folders = len({one.folders[0] for one in images if one.folders})
    parts = [f"{len(images):,} images"]
    parts.append(f"in {folders:,} folders" if folders > 1 else "in one folder")
    if told.tables:
        parts.append(f"described by {_and(told.tables)}")
    return " ".join(parts)


def _split_in_words(images: Sequence[Found], split: str, by_folder: bool) -> str:
    counts = Counter(one.split or "no split" for one in images)
    if set(counts) == {"no split"}:
        return "none: all images are for training"
    how = "folders" if by_folder else "a column"
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    return f"{split}, by {how} ({parts})"


def _explain_others(
    files: Files, survey: Survey, others: Sequence[str], told: Annotations, beside: dict[str, Beside]
) -> None:
    used = {name for one in beside.values() for name in one if name} | set(told.read)
    rest = [name for name in others if name not in used]
    kinds = Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in rest)
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS_NAMED)]
    if len(kinds) > _KINDS_NAMED:
        parts.append(f"{len(rest) - sum(n for _, n in kinds.most_common(_KINDS_NAMED)):,} of other kinds")
    parts += [f"{count:,} {what}" for what, count in files.ignored.items()]
    if parts:
        survey.understood["Not read"] = ", ".join(parts)
    if rest:
        survey.notes.append(_note_on_rest(rest, kinds))
    tables = [posixpath.basename(name) for name in rest if name.lower().endswith(ENDINGS) and "." in name]
    if tables and not told.tables:
        survey.notes.append(
            f"If {tables[0]} describes these images, rename it to {TABLES[0]} or metadata.csv."
        )
    survey.notes += files.notes


def _note_on_rest(rest: Sequence[str], kinds: Counter[str]) -> str:
    drawings = kinds[".svg"] + kinds[".svgz"]
    advice = f" ({drawings} of them SVG drawings: convert them to PNG first)" if drawings else ""
    which = f"{len(rest):,} files are" if len(rest) > 1 else "1 file is"
    return (
        f"{which} not images and were left out{advice}."
        if len(rest) > 1
        else (f"{which} not an image and was left out{advice}.")
    )


def _why_no_images(files: Files, others: Sequence[str]) -> str:
    kinds = Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in others)
    ignored = [f"{count:,} {what}" for what, count in files.ignored.items()]
    if not others and not ignored:
        return f"{files.path} holds no files: name a folder with images."
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS_NAMED)] + ignored
    advice = "name a folder with png, jpeg or webp files"
    if kinds[".svg"] or kinds[".svgz"]:
        advice = "SVG drawings are not supported: convert them to PNG first"
    elif kinds[".zip"]:
        advice = "name one of the zip files"
    return f"{files.path} holds no images ({', '.join(parts)}): {advice}."


def _and(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))
