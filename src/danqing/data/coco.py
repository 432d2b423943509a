"""Boxes in COCO's format: one JSON file with images, annotations and categories."""

import json
from typing import Any, NamedTuple

from danqing.data import tables
from danqing.data.boxes import Objects
from danqing.errors import DataError
from danqing.names import normalized


class Coco(NamedTuple):
    """What one file says.

    images: the objects of each image by its path. classes: the names of the categories by their numbers.
    crowds: how many boxes are around crowds, which are not used.
    """

    images: dict[str, Objects]
    classes: tuple[str, ...]
    crowds: int


def read_coco(place: str, content: bytes) -> Coco | None:
    """Read annotations; None for a file that holds something else.

    Raises DataError if a part of them is damaged.
    """
    if b'"annotations"' not in content:
        return None
    try:
        found = json.loads(tables.decoded_text(place, content))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}.") from error
    if not isinstance(found, dict) or not {"images", "annotations", "categories"} <= found.keys():
        return None
    try:
        return _read(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{place} cannot be read as COCO annotations ({type(error).__name__}: {error}): give each image "
            "an id and a file_name, and each annotation an image_id, a category_id and a bbox of 4 numbers."
        ) from error


def _read(found: dict[str, Any]) -> Coco:
    names = {each["id"]: normalized(str(each["name"])) for each in found["categories"]}
    crowds = 0
    boxes: dict[Any, list[tuple[str, tuple[float, float, float, float]]]] = {
        each["id"]: [] for each in found["images"]
    }
    for each in found["annotations"]:
        if each.get("iscrowd"):
            crowds += 1
            continue
        left, top, width, height = map(float, each["bbox"])
        boxes[each["image_id"]].append((names[each["category_id"]], (left, top, left + width, top + height)))
    images = {}
    for each in found["images"]:
        own = boxes[each["id"]]
        unit = (float(each["width"]), float(each["height"])) if each.get("width") else None
        images[str(each["file_name"])] = Objects([name for name, _ in own], [box for _, box in own], unit)
    return Coco(images, tuple(dict.fromkeys(names[number] for number in sorted(names))), crowds)
