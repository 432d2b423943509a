"""The rules by which masks and boxes are found for images, in folders and archives.

Masks: two folders with the same names below them (`images:masks`), files beside the images whose names end
in a suffix (`_mask`), or a column of a table. Boxes: COCO's JSON, YOLO's text files, a column, or the objects
in the masks. Both only where they are declared; `auto` finds out which of these the data has.
"""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from danqing.data import coco, pairs, yolo
from danqing.data.annotations import Annotations, Matcher, Wanted
from danqing.data.boxes import Objects
from danqing.data.files import Files
from danqing.data.located import Found
from danqing.data.raw_targets import BoxesFrom
from danqing.data.survey import Survey
from danqing.data.tables import LABELS
from danqing.errors import ConfigError, DataError

AUTO = "auto"
MASK_FOLDERS = (
    *("masks", "mask", "segmentationclass", "segmentations", "segmentation", "labelmaps", "ground_truth"),
    *("groundtruth", "gt", "annotations", "annotation", "labels", "label"),
)
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures")
SUFFIXES = ("_mask", "-mask", ".mask", "_seg", "_segmentation", "_labelmap", "_label", "_gt")
MASK_COLUMNS = ("mask", "mask_file", "mask_path", "mask_file_name", "segmentation", "label_map", "annotation")
OBJECT_COLUMNS = ("objects", "boxes", "bboxes", "annotations")
FROM_MASKS = ("masks", "instances")
_FORMATS = ("coco", "yolo")


@dataclass
class TargetFiles:
    """Which files hold the targets of images.

    masks: the mask of each image, by name. not_images: image files that are masks. without: images to leave
    out, and why. places: of images in one of two folders. objects: the boxes of images, by name; of_text:
    their text files; cells: their cells in tables. read: the files of annotations.
    """

    masks: dict[str, str] = field(default_factory=dict)
    not_images: set[str] = field(default_factory=set)
    without: dict[str, str] = field(default_factory=dict)
    places: dict[str, pairs.Place] = field(default_factory=dict)
    objects: dict[str, Objects] = field(default_factory=dict)
    of_text: dict[str, yolo.TextFile] = field(default_factory=dict)
    cells: dict[str, Any] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    @property
    def has_boxes(self) -> bool:
        return bool(self.objects or self.of_text or self.cells)

    def boxes_of(self, image: str) -> Any:
        """Return the objects of an image, None for none.

        They may still be in a text file or a cell.
        """
        return self.objects.get(image, self.of_text.get(image, self.cells.get(image)))


def find(
    files: Files,
    images: Sequence[Found],
    others: Sequence[str],
    masks: str,
    boxes: str,
    survey: Survey,
) -> TargetFiles:
    """Find masks among the images, and boxes among the other files.

    masks, boxes: as declared; those in columns are not found here.
    Raises DataError where what is declared does not exist or is damaged.
    """
    found = TargetFiles()
    if masks:
        _find_masks(found, images, masks, survey)
    if boxes and boxes not in FROM_MASKS:
        names = [one.name for one in images if one.name not in found.not_images]
        _find_boxes(found, files, names, others, boxes, survey)
        if boxes == AUTO and not (masks or found.has_boxes):
            _find_masks(found, images, AUTO, survey)
    if found.masks or masks or found.of_text:
        place, classes = yolo.class_names(others, files.read)
        found.read += [place] if place else []
        topics = [topic for topic, one in (("Boxes", found.of_text), ("Masks", found.masks or masks)) if one]
        survey.class_names |= dict.fromkeys(topics if place else (), classes)
    return found


def columns(found: TargetFiles, masks: str, boxes: str, label_sets: str) -> Wanted:
    """Return the columns that may hold targets which no file has."""
    mask = "" if found.masks or ":" in masks or masks[:1] in ("_", "-", ".") else masks
    is_file = boxes in (*_FORMATS, *FROM_MASKS) or boxes.lower().endswith(".json")
    objects = "" if found.has_boxes or is_file else boxes
    return Wanted(
        mask=MASK_COLUMNS if mask == AUTO else tuple(filter(None, [mask])),
        objects=OBJECT_COLUMNS if objects == AUTO else tuple(filter(None, [objects])),
        label_set=LABELS if label_sets == AUTO else tuple(filter(None, [label_sets])),
    )


def settle(found: TargetFiles, told: Annotations, masks: str, boxes: str, survey: Survey) -> BoxesFrom:
    """Add the targets in tables, and decide where boxes come from.

    Returns whether they are those of the objects in masks. Images without what others have are left out.
    Raises DataError if what is declared was found nowhere.
    """
    if told.mask:
        found.masks = {name: one.mask for name, one in told.by_image.items() if one.mask}
        found.not_images |= set(found.masks.values())
        survey.understood["Masks"] = told.mask
        for name in told.by_image:
            if name not in found.masks and name not in found.not_images:
                found.without.setdefault(name, f"without a mask in {told.mask}")
    if told.objects:
        found.cells = {name: one.objects for name, one in told.by_image.items()}
        survey.understood["Boxes"] = told.objects
    if masks and not found.masks:
        raise DataError(
            "No masks were found: looked for two folders such as images/ and masks/, for two files such as "
            "cat.jpg and cat_mask.png, and for a column such as 'mask'. Declare them as IMAGES:MASKS, as "
            "_SUFFIX, or as a column."
        )
    if not boxes or found.has_boxes:
        return ""
    if boxes in FROM_MASKS or (boxes == AUTO and found.masks):
        survey.understood["Boxes"] = (
            "the values of masks" if boxes == "instances" else "connected regions of masks"
        )
        return "instances" if boxes == "instances" else "masks"
    raise DataError(
        "No boxes were found: looked for a JSON file with images, annotations and categories (COCO), for "
        "text files beside the images or below labels/ (YOLO), and for a column such as 'objects'."
    )


def _find_masks(found: TargetFiles, images: Sequence[Found], masks: str, survey: Survey) -> None:
    if masks == AUTO:
        masks = _guessed(images)
    if ":" in masks:
        folders = pairs.parse_pairs(masks)
        assert isinstance(folders, pairs.Folders)
        _by_folder(found, images, folders)
        survey.understood["Masks"] = f"the folder {folders.targets}"
    elif masks[:1] in ("_", "-", "."):
        _by_suffix(found, images, masks)
        survey.understood["Masks"] = f"files that end in {masks}"
    for name in sorted(found.not_images - set(found.masks.values())):
        survey.leave_out(name, "a mask without an image")


def _find_boxes(
    found: TargetFiles,
    files: Files,
    images: Sequence[str],
    others: Sequence[str],
    boxes: str,
    survey: Survey,
) -> None:
    path = boxes if boxes.lower().endswith(".json") else ""
    if path or boxes in ("coco", AUTO):
        _read_coco(found, files, images, others, path, survey)
    if not found.objects and boxes in ("yolo", AUTO):
        _read_yolo(found, files, images, others, survey)
    if not found.has_boxes and (path or boxes in _FORMATS):
        looked = {
            "coco": "a JSON file with images, annotations and categories",
            "yolo": "text files of boxes",
        }
        raise DataError(f"{files.path} has no boxes: looked for {looked.get(boxes, boxes)}.")


def _guessed(images: Sequence[Found]) -> str:
    """Return two folders or a suffix that suit the names of the images, or ""."""
    tops = Counter(top for one in images if (top := _top(one)))
    masks = [top for name in MASK_FOLDERS for top in tops if top.lower() == name]
    rest = [top for top in tops if top not in masks]
    known = [top for name in IMAGE_FOLDERS for top in rest if top.lower() == name]
    if masks and (known or len(rest) == 1):
        return f"{(known or rest)[0]}:{masks[0]}"
    stems = {posixpath.splitext(one.path)[0].casefold() for one in images}
    for suffix in SUFFIXES:
        if any(stem.endswith(suffix) and stem.removesuffix(suffix) in stems for stem in stems):
            return suffix
    return ""


def _top(image: Found) -> str:
    folders = image.path.split("/")[:-1]
    if image.split is not None:
        folders = folders[1:]
    return folders[0] if folders else ""


def _by_folder(found: TargetFiles, images: Sequence[Found], folders: pairs.Folders) -> None:
    """Match images and masks by their path below two folders, the mask with or without a known suffix."""
    by_key: dict[str, str] = {}
    wanted: list[tuple[str, str]] = []
    places = [(one, pairs.place_of(one.path, one.split, folders)) for one in images]
    for one, place in places:
        if place is None:
            found.without[one.name] = f"in neither {folders.sources} nor {folders.targets}"
        elif place.folder == folders.targets:
            found.not_images.add(one.name)
            key = pairs.pair_key(place)
            by_key[key] = one.name
            for suffix in SUFFIXES:
                if key.endswith(suffix):
                    by_key.setdefault(key.removesuffix(suffix), one.name)
        else:
            wanted.append((one.name, pairs.pair_key(place)))
            found.places[one.name] = place
    if not wanted or not found.not_images:
        raise DataError(
            f"The folders {folders.sources} and {folders.targets} of the masks do not both hold images: name "
            "the folder of the images, then that of their masks."
        )
    for name, key in wanted:
        if key in by_key:
            found.masks[name] = by_key[key]
        else:
            found.without[name] = f"without a mask in {folders.targets}"


def _by_suffix(found: TargetFiles, images: Sequence[Found], suffix: str) -> None:
    """Match images with the files beside them whose names end in a suffix."""
    stems = {one.name: posixpath.splitext(one.path)[0].casefold() for one in images}
    masks = {stem: name for name, stem in stems.items() if stem.endswith(suffix.casefold())}
    if not masks:
        raise DataError(f"No file of the data ends in {suffix!r}: name the suffix of masks, such as _mask.")
    found.not_images = set(masks.values())
    for name, stem in stems.items():
        if name not in found.not_images:
            if mask := masks.get(stem + suffix.casefold()):
                found.masks[name] = mask
            else:
                found.without[name] = f"without a mask that ends in {suffix}"


def _read_coco(
    found: TargetFiles, files: Files, images: Sequence[str], others: Sequence[str], path: str, survey: Survey
) -> None:
    matcher = Matcher(files, images)
    names, missing, crowds = dict[str, None](), 0, 0
    for place in others:
        inner = files.inner(place)
        if not inner.lower().endswith(".json") or (path and not f"/{inner}".endswith(f"/{path}")):
            continue
        told = coco.read_coco(place, files.read(place))
        if told is None:
            continue
        found.read.append(place)
        names |= dict.fromkeys(told.classes)
        crowds += told.crowds
        base = posixpath.dirname(inner) + "/" if "/" in inner else ""
        for file_name, objects in told.images.items():
            image = matcher.find(base, file_name)
            if image is None:
                missing += 1
            elif image in found.objects:
                raise DataError(
                    f"Two files of boxes describe {image}: keep one of them, or name it by boxes = "
                    f"'{posixpath.basename(found.read[0])}'."
                )
            else:
                found.objects[image] = objects
    if not found.read:
        return
    where = " and ".join(dict.fromkeys(map(posixpath.basename, found.read)))
    survey.class_names["Boxes"] = tuple(names)
    found.without |= {name: f"not listed in {where}" for name in images if name not in found.objects}
    survey.understood["Boxes"] = where
    if missing:
        survey.notes.append(f"{missing:,} images that {where} lists are not in the data.")
    if crowds:
        survey.notes.append(f"{crowds:,} boxes around crowds are not used.")


def _read_yolo(
    found: TargetFiles, files: Files, images: Sequence[str], others: Sequence[str], survey: Survey
) -> None:
    texts = frozenset(name for name in others if name.lower().endswith(".txt"))
    of_text = {name: file for name in images if (file := yolo.label_file(name, texts))}
    if not of_text or not yolo.are_boxes(list(of_text.values()), files.read):
        return
    found.of_text = of_text
    survey.understood["Boxes"] = "text files in YOLO's format"
    if bare := len(images) - len(of_text):
        survey.notes.append(
            f"{bare:,} images have no text file of boxes: they count as images without objects."
        )


def check(pairs: str, masks: str, boxes: str, label_sets: str) -> None:
    """Raise ConfigError if declarations do not go together."""
    if pairs and (masks or boxes or label_sets):
        raise ConfigError("The data cannot have pairs and masks, boxes or label sets: leave pairs out.")
    if boxes in FROM_MASKS and not masks:
        raise ConfigError(f"boxes is {boxes!r}: declare the masks too, for instance by masks = 'auto'.")
