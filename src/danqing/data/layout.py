"""The rules by which files become images with labels, captions and partners, in folders and archives.

Split: top-level folders, if all are named like splits; otherwise a column `split`.
Label: a column of a table; else `.cls` or `.json` files beside the images; else the first level of folders.
Captions: a column of a table; else `.txt`, `.caption` or `.json` files beside the images.
Pairs, attributes and targets: only as declared, never guessed.
"""

import contextlib
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from danqing.data import pairs, target_files
from danqing.data.annotations import Annotation, Annotations, read_annotations
from danqing.data.files import Files
from danqing.data.layout_words import (
    counted,
    explain_others,
    joined,
    layout_in_words,
    split_in_words,
    where_captions_were_sought,
    why_no_images,
)
from danqing.data.located import Found, located
from danqing.data.raw_targets import BoxesFrom
from danqing.data.side_files import Beside, find_beside, say_something
from danqing.data.split_names import split_named
from danqing.data.survey import Survey
from danqing.data.tables import TABLES, find_header
from danqing.data.target_files import TargetFiles
from danqing.errors import DataError, MissingSplitError
from danqing.image_files import frames
from danqing.image_files.formats import is_dicom, is_image_name

_VOLUMES = (".nii", ".nii.gz")


class Declared(NamedTuple):
    """The user's declarations about the data.

    pairs: "SOURCES:TARGETS" for two folders, "side-by-side" or "side-by-side-reversed" for two halves of one
    image, or the column that names the source image. attributes: columns of numbers, categories or vectors.
    masks, boxes, label_sets: as of `open_dataset`.
    """

    pairs: str = ""
    attributes: tuple[str, ...] = ()
    masks: str = ""
    boxes: str = ""
    label_sets: str = ""

    def key(self) -> tuple[str, ...]:
        """Return what else determines a source's images, besides its files."""
        targets = [f"{name}={getattr(self, name)}" for name in self._fields[2:] if getattr(self, name)]
        return (self.pairs, *self.attributes, *targets) if any(self) else ()


NOTHING_DECLARED = Declared()


class ImageEntry(NamedTuple):
    """One image: its file, its label and captions, and its side files.

    attributes: cells, in the order of their declaration. partner: the file of its source image. frame: the
    number of the slice, if the file is a volume. missing: why there is no file, if a table names one that
    does not exist. mask: the file of its mask. objects: its boxes, or the cell or text file that has them.
    label_set: its labels, if there may be several.
    """

    name: str
    label: str | None = None
    caption: str | None = None
    beside: Beside = Beside()
    attributes: tuple[Any, ...] = ()
    partner: str | None = None
    frame: int | None = None
    missing: str = ""
    mask: str | None = None
    objects: Any = None
    label_set: tuple[str, ...] | None = None


@dataclass
class Layout:
    """The images of one split in file order.

    Also an account of all other files. boxes_from: whether boxes are those of the objects in masks.
    """

    boxes_from: BoxesFrom = ""
    rows: list[ImageEntry] = field(default_factory=list)
    survey: Survey = field(default_factory=Survey)


def lay_out(files: Files, split: str, declared: Declared = NOTHING_DECLARED) -> Layout:
    """Apply the rules to some files; split: train, test, validation or all.

    Raises DataError if there are no images, and MissingSplitError if the data has no such split.
    """
    target_files.check(declared.pairs, declared.masks, declared.boxes, declared.label_sets)
    layout = Layout()
    survey = layout.survey
    names, others = _sorted(files)
    if not names:
        raise DataError(why_no_images(files, others))
    images = located(files, names)
    column, halves = "", declared.pairs in pairs.HALVES
    if declared.pairs and not halves:
        given = pairs.parse_pairs(declared.pairs)
        if isinstance(given, pairs.Folders):
            images = _paired(images, given, survey)
        else:
            column = given
    targets = target_files.find(files, images, others, declared.masks, declared.boxes, survey)
    images = _without_masks(images, targets)
    tables = [name for name in others if posixpath.basename(name).lower() in TABLES]
    wanted = target_files.columns(targets, declared.masks, declared.boxes, declared.label_sets)
    wanted = wanted._replace(attributes=declared.attributes, partner=(column,) if column else ())
    told = read_annotations(files, tables, names, survey, wanted)
    taken = {*told.read, *targets.read, *(file.place for file in targets.of_text.values())}
    beside = find_beside([one.name for one in images], [name for name in others if name not in taken])
    lacking = [name for name in declared.attributes if not find_header(told.headers, name)]
    if lacking and not any(one.json for one in beside.values()):
        raise DataError(
            f"There is no column {lacking[0]!r} for data.attributes: the columns are "
            f"{', '.join(told.headers) or 'none: there is no metadata table'}."
        )
    layout.boxes_from = target_files.settle(targets, told, declared.masks, declared.boxes, survey)
    images = _without_masks(images, targets)  # those that a table names
    by_folder = any(one.split for one in images)
    if not by_folder:
        for one in images:
            one.split = told.split_of(one.name)
    kept = _chosen(files, images, split, told, targets, survey)
    layout.rows = _slices(files, _rows(files, kept, told, beside, column, targets, survey), survey)
    layout.rows += _missing(told, split, by_folder, survey)
    survey.understood["Layout"] = layout_in_words(images, told)
    survey.understood["Split"] = split_in_words(images, split, by_folder)
    explain_others(files, survey, others, taken, told, beside, images)
    return layout


def _without_masks(images: Sequence[Found], targets: TargetFiles) -> list[Found]:
    """Return the images that are not masks; folders above those of images and masks are not labels."""
    kept = [one for one in images if one.name not in targets.not_images]
    for one in kept:
        if place := targets.places.get(one.name):
            one.folders, one.split = place.rest.split("/")[:-1], place.split
    return kept


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
    files: Files,
    images: Sequence[Found],
    split: str,
    told: Annotations,
    targets: TargetFiles,
    survey: Survey,
) -> list[Found]:
    has_splits = any(one.split for one in images)
    if not has_splits and split not in ("train", "all"):
        raise MissingSplitError(
            f"{files.path} has no {split} split: put its images into train/ and {split}/ to make one."
        )
    kept = []
    for one in images:
        if told.lists_all_but(one.name, files.inner(one.name)):
            survey.leave_out(one.name, f"not listed in {joined(told.tables)}")
        elif has_splits and split not in ("all", one.split):
            where = f"in the {one.split} split" if one.split else "outside the folders of the splits"
            survey.leave_out(one.name, where)
        elif one.name in targets.without:
            survey.leave_out(one.name, targets.without[one.name])
        else:
            kept.append(one)
    known = sorted({one.split for one in images if one.split})
    if has_splits and split != "all" and split not in known:
        advice = "; put the training images into train/" if split == "train" else ""
        raise MissingSplitError(f"{files.path} has no {split} split: it has {joined(known)}{advice}.")
    return kept


# Their labels, captions and attributes


def _rows(
    files: Files,
    kept: Sequence[Found],
    told: Annotations,
    beside: dict[str, Beside],
    partner_column: str,
    targets: TargetFiles,
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
            ImageEntry(
                one.name,
                label,
                said.caption,
                near,
                said.attributes,
                one.partner or said.partner,
                mask=targets.masks.get(one.name),
                objects=targets.boxes_of(one.name),
                label_set=said.label_set,
            )
        )
    survey.understood["Labels"] = counted(labels, len(rows)) or "none: no class folders, column or files"
    survey.understood["Captions"] = counted(captions, len(rows)) or where_captions_were_sought(told, beside)
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
        survey.leave_out(path, f"listed in {joined(told.tables)} by a path that leads out of the data")
    for path, own in told.missing.items():
        if by_folder:
            own = next(filter(None, map(split_named, path.split("/")[:-1])), None)
        if own is not None and split not in ("all", own):
            survey.leave_out(path, f"in the {own} split")
        else:
            rows.append(
                ImageEntry(path, missing=f"It is listed in {joined(told.tables)}, but there is no such file.")
            )
    return rows
