"""Boxes in YOLO's format: a text file for each image, with one line per object."""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from danqing.data import tables
from danqing.data.boxes import Objects
from danqing.errors import DataError
from danqing.names import normalized
from danqing.text_encoding import lines_of

CLASS_FILES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml", "classes.txt", "obj.names")
"""Files that name the classes, the first of which counts."""
_SAMPLE = 50
_LINE = re.compile(r"[0-9]+(?:[ \t]+[-+0-9.eE]+){4,}")


class TextFile(NamedTuple):
    """The file with the boxes of one image."""

    place: str


def label_file(image: str, others: frozenset[str]) -> TextFile | None:
    """Return the text file with the boxes of an image, or None.

    It lies beside the image, or below `labels` where the image lies below `images`.
    """
    stem = posixpath.splitext(image)[0]
    beside = f"{stem}.txt"
    if beside in others:
        return TextFile(beside)
    parts = stem.split("/")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() == "images":
            moved = "/".join([*parts[:place], "labels", *parts[place + 1 :]]) + ".txt"
            if moved in others:
                return TextFile(moved)
    return None


def are_boxes(files: Sequence[TextFile], read: Callable[[str], bytes]) -> bool:
    """Decide from a sample whether text files hold boxes."""
    step = max(1, len(files) // _SAMPLE)
    texts = [read(file.place).decode("utf-8", "replace") for file in files[::step][: 2 * _SAMPLE]]
    lines = [line.strip() for text in texts for line in lines_of(text) if line.strip()]
    return bool(texts) and all(_LINE.fullmatch(line) for line in lines)


def read_boxes(place: str, content: bytes, names: Sequence[str]) -> Objects:
    """Read a text file with an object on each line.

    A line is `class x y width height`, as shares of the image, with x and y of the centre. Lines with more
    numbers are outlines, `class x y x y ...`, and give the box around them.
    names: of the classes; a number beyond them is its own name. Raises DataError.
    """
    found, boxes = list[str](), list[tuple[float, float, float, float]]()
    for number, line in enumerate(lines_of(tables.decoded_text(place, content)), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = line.split()
            which, sides = int(kind), list(map(float, values))
            if which < 0 or len(sides) < 4 or (len(sides) > 5 and len(sides) % 2):
                raise ValueError
        except ValueError as error:
            raise DataError(
                f"{place}, line {number}, is not a box: write the class, and x, y, width and height as "
                "shares of the image."
            ) from error
        found.append(names[which] if which < len(names) else str(which))
        if len(sides) > 5:
            xs, ys = sides[::2], sides[1::2]
            boxes.append((min(xs), min(ys), max(xs), max(ys)))
        else:
            x, y, width, height = sides[:4]
            boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return Objects(found, boxes, (1.0, 1.0))


def class_names(others: Iterable[str], read: Callable[[str], bytes]) -> tuple[str, tuple[str, ...]]:
    """Return the file that names the classes, and their names.

    Returns "" and nothing if there is none.
    """
    for name in CLASS_FILES:
        place = next((other for other in others if posixpath.basename(other).lower() == name), None)
        if place is not None:
            text = tables.decoded_text(place, read(place))
            names = _of_yaml(text) if name.endswith(("yaml", "yml")) else lines_of(text)
            if names := [normalized(one) for one in names]:
                while names and not names[-1]:
                    names.pop()
                return place, tuple(names)
    return "", ()


def _of_yaml(text: str) -> list[str]:
    """Return the value of `names`: a list or a table of numbers and names, on one line or several."""
    lines = iter(lines_of(text))
    rest = next((line.partition(":")[2] for line in lines if re.match(r"names\s*:", line)), None)
    if rest is None:
        return []
    rest = re.sub(r"\s#.*", "", rest).strip()
    if rest:
        for line in lines:
            if rest.endswith(("]", "}")):
                break
            rest += " " + line.strip()
        entries = rest.strip("[]{}").split(",")
    else:
        entries = []
        for line in lines:
            entry = re.sub(r"\s#.*", "", line)
            if entry.strip() and not re.match(r"\s+\S|-", entry):
                break
            if entry.strip():
                entries.append(entry.strip().removeprefix("-"))
    return [re.sub(r"^\s*[0-9]+\s*:", "", entry).strip().strip("'\"") for entry in entries]
