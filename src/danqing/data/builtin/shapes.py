"""Shapes: one to four equal figures on a pale background, drawn at any size, with known attributes.

An image is a combination of colour, shape, size, place and count, captioned in English and Chinese. For each
colour, one shape occurs only in the test split: a model that generates such pairs combines what it has only
seen separately.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danqing.data.augment import Augment
from danqing.data.records import About, ImageSpec, Natural, Record, Source, digest
from danqing.data.survey import Survey
from danqing.errors import DataError, MissingSplitError
from danqing.images import Pixels
from danqing.progress import ProgressCallback

SUMMARY = (
    "coloured shapes at any size, captions in English and Chinese, 8 labels; shapes:50000 draws that many"
)
ABOUT = About(
    "shapes",
    "CC0 1.0",
    "Drawn by Danqing: combinations of colour, shape, size, place and count, of which some are held out.",
    Augment(),  # a mirrored image would contradict its caption
)

COLOURS = {
    "red": (220, 38, 38),
    "orange": (249, 130, 22),
    "yellow": (245, 205, 20),
    "green": (22, 163, 74),
    "blue": (37, 99, 235),
    "purple": (126, 58, 205),
    "pink": (244, 114, 182),
    "black": (38, 38, 46),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")
RADII = {"small": 0.095, "large": 0.155}
"""Half the width of a figure, as a share of the shorter side of the image."""
PITCH = 0.36
"""From the centre of a figure to that of its neighbour, as a share of the shorter side."""
MARGIN = 0.05
OUTWARD = 0.25
"""The distance from the edge to the centre of a group, as a share of that side, if it would fit closer."""
JITTER = 0.025
"""How far a group is moved at random, as a share of the shorter side."""
PLACES = tuple(itertools.product((-1, 0, 1), (-1, 0, 1)))
"""Across, then down: -1 is left or top, 0 the middle, 1 right or bottom."""
COUNTS = (1, 2, 3, 4)
GROUPS: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0.0, 0.0),),
    2: ((-0.5, 0.0), (0.5, 0.0)),
    3: ((0.0, -0.5), (-0.5, 0.5), (0.5, 0.5)),
    4: ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}
"""The positions of the figures of a group, in pitches from its centre."""

TRAINING_IMAGES = 20_000
TEST_IMAGES_EACH = 4
"""The number of test images of each held-out combination."""
_TINT = 20
"""The maximum distance of the background's channels from white."""

_ENGLISH_PLACES = {
    (-1, -1): "at the top left",
    (0, -1): "at the top",
    (1, -1): "at the top right",
    (-1, 0): "on the left",
    (0, 0): "in the centre",
    (1, 0): "on the right",
    (-1, 1): "at the bottom left",
    (0, 1): "at the bottom",
    (1, 1): "at the bottom right",
}
_CHINESE_PLACES = {
    (-1, -1): "左上角",
    (0, -1): "顶部",
    (1, -1): "右上角",
    (-1, 0): "左边",
    (0, 0): "中央",
    (1, 0): "右边",
    (-1, 1): "左下角",
    (0, 1): "底部",
    (1, 1): "右下角",
}
_CHINESE_COLOURS = dict(zip(COLOURS, "红橙黄绿蓝紫粉黑", strict=True))
_CHINESE_SHAPES = dict(
    zip(SHAPES, ("圆形", "正方形", "三角形", "菱形", "星星", "爱心", "十字", "圆环"), strict=True)
)
_NUMBERS = ("a", "two", "three", "four")
_CHINESE_NUMBERS = ("一", "两", "三", "四")


@dataclass(frozen=True, slots=True)
class Combination:
    """The content of an image's caption; place as in `PLACES`."""

    colour: str
    shape: str
    size: str
    place: tuple[int, int]
    count: int

    @property
    def is_held_out(self) -> bool:
        """Return whether its colour and shape occur only in the test split."""
        return SHAPES.index(self.shape) == (tuple(COLOURS).index(self.colour) + 3) % len(SHAPES)

    @property
    def english(self) -> str:
        """Return the English caption, such as `two small red circles at the top left`."""
        plural = "" if self.count == 1 else "es" if self.shape == "cross" else "s"
        number, where = _NUMBERS[self.count - 1], _ENGLISH_PLACES[self.place]
        return f"{number} {self.size} {self.colour} {self.shape}{plural} {where}"

    @property
    def chinese(self) -> str:
        """Return the Chinese caption, such as `左上角有两个红色的小圆形`."""
        measure = "颗" if self.shape in ("star", "heart") else "个"
        size = "小" if self.size == "small" else "大"
        what = f"{_CHINESE_COLOURS[self.colour]}色的{size}{_CHINESE_SHAPES[self.shape]}"
        return f"{_CHINESE_PLACES[self.place]}有{_CHINESE_NUMBERS[self.count - 1]}{measure}{what}"


@functools.cache
def combinations() -> tuple[Combination, ...]:
    """Return all combinations, in a fixed order."""
    return tuple(itertools.starmap(Combination, itertools.product(COLOURS, SHAPES, RADII, PLACES, COUNTS)))


@functools.cache
def by_caption() -> dict[str, Combination]:
    """Return the combination of each caption in either language."""
    return {caption: each for each in combinations() for caption in (each.english, each.chinese)}


def fetch(on_progress: ProgressCallback | None = None) -> None:
    """Download nothing: the images are drawn."""


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the drawn images; `part` may set the number of training images."""
    if split not in ("train", "test", "all"):
        raise MissingSplitError(f"shapes has no {split} split: it has train and test.")
    text = "".join(part) or str(TRAINING_IMAGES)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 100_000_000:
        raise DataError(f"shapes takes a number of images, not {text!r}: write for example shapes:50000.")
    return ShapesSource(split, int(text)), ()


class ShapesSource:
    """Images drawn one by one.

    The shape's name is the label, the captions are two lines.
    """

    about = ABOUT
    label_names: tuple[str, ...] = SHAPES
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((32, 32), True, False)

    def __init__(self, split: str, training_images: int) -> None:
        self.split = split
        self._known = _shuffled(tuple(each for each in combinations() if not each.is_held_out))
        self._held = _shuffled(tuple(each for each in combinations() if each.is_held_out))
        self._counts = {
            "train": 0 if split == "test" else training_images,
            "test": 0 if split == "train" else TEST_IMAGES_EACH * len(self._held),
        }

    def key(self) -> str:
        rules = f"{COLOURS} {RADII} {PITCH} {MARGIN} {OUTWARD} {JITTER} {_TINT} {GROUPS}"
        captions = "\n".join(by_caption())
        return digest("shapes, version 2", str(self._counts), rules, captions)

    def count(self) -> int:
        return sum(self._counts.values())

    def survey(self) -> Survey:
        return Survey()

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        size = spec.size or (32, 32)
        for number in range(start, self.count()):
            training = number < self._counts["train"]
            place = number if training else number - self._counts["train"]
            chosen = self._known if training else self._held
            combination = chosen[place % len(chosen)]
            name = f"shapes/{'train' if training else 'test'}#{place}"
            load = functools.partial(drawn, combination, name, size)
            yield Record(name, load, combination.shape, f"{combination.english}\n{combination.chinese}")


def drawn(combination: Combination, name: str, size: tuple[int, int]) -> Pixels:
    """Draw an image of `size` (width, height), uint8 `[h, w, 3]`.

    `name` seeds the open choices.
    """
    across, down, *tint = _uniform(name, 5)
    x, y = middle(combination, size)
    reach = JITTER * min(size)
    centres = [
        (x + (2 * across - 1) * reach + dx, y + (2 * down - 1) * reach + dy)
        for dx, dy in offsets(combination.count, size)
    ]
    radius = RADII[combination.size] * min(size)
    covered = sum(coverage(combination.shape, radius, centre, size) for centre in centres)
    ground = 255 - _TINT * np.array(tint)
    mixed = ground + np.clip(covered, 0, 1)[:, :, None] * (COLOURS[combination.colour] - ground)
    return np.round(mixed).astype(np.uint8)


def offsets(count: int, size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """Return the positions of a group's figures, in pixels from its centre."""
    pitch = PITCH * min(size)
    return tuple((pitch * x, pitch * y) for x, y in GROUPS[count])


def middle(combination: Combination, size: tuple[int, int]) -> tuple[float, float]:
    """Return the centre of the group before its random move.

    In pixels from the top left.
    """
    shorter = min(size)
    places = []
    for axis, (side, where) in enumerate(zip(size, combination.place, strict=True)):
        reach = max(each[axis] for each in GROUPS[combination.count]) * PITCH + RADII[combination.size]
        inset = max(OUTWARD * side, (MARGIN + reach) * shorter)
        places.append(inset if where < 0 else side - inset if where > 0 else side / 2)
    return places[0], places[1]


def coverage(
    shape: str, radius: float, centre: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return how much of each pixel a figure covers.

    `[h, w]` in [0, 1], averaged over points in the pixel.
    """
    result = np.zeros((size[1], size[0]))
    points = 8 if radius <= 16 else 4
    (left, xs), (top, ys) = (
        _points(place, radius, side, points) for place, side in zip(centre, size, strict=True)
    )
    inside = _INSIDE[shape](xs[None, :], -ys[:, None])
    height, width = len(ys) // points, len(xs) // points
    share = inside.reshape(height, points, width, points).mean((1, 3))
    result[top : top + height, left : left + width] = share
    return result


def _points(place: float, radius: float, side: int, points: int) -> tuple[int, NDArray[np.float64]]:
    """Return the first pixel that a figure may touch along one axis, and the sample points, in radii."""
    reach = 1.2 * radius
    first, last = max(0, math.floor(place - reach)), min(side, math.ceil(place + reach))
    return first, (first + (np.arange(max(0, last - first) * points) + 0.5) / points - place) / radius


def _uniform(name: str, count: int) -> list[float]:
    """Return numbers in [0, 1) that depend only on a name."""
    words = hashlib.blake2b(name.encode(), digest_size=4 * count).digest()
    return [int(word) / 2**32 for word in np.frombuffer(words, "<u4")]


def _shuffled(items: tuple[Combination, ...]) -> tuple[Combination, ...]:
    """Shuffle by a hash of the captions, so that the first few include every kind."""
    return tuple(sorted(items, key=lambda item: hashlib.sha256(item.english.encode()).digest()))


# Each takes points in radii from the centre, y upwards. All have about the same area, so that a small figure
# is smaller than a large one of any shape.
_Inside = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]


def _star(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    outer, inner, half = 1.15, 0.56, math.pi / 5
    y = y + 0.06
    distance = np.hypot(x, y)
    turn = np.arctan2(x, y) % (2 * half)
    turn = np.minimum(turn, 2 * half - turn)  # from the nearest point, 0 to 36 degrees
    along, beside = distance * np.cos(turn), distance * np.sin(turn)
    # within the line from the point (outer, 0) to the notch at 36 degrees
    notch = (inner * math.cos(half), inner * math.sin(half))
    return (along - outer) * notch[1] - beside * (notch[0] - outer) <= 0


def _heart(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    x, y = 1.14 * x, 1.14 * y + 0.1
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


_INSIDE: dict[str, _Inside] = {
    "circle": lambda x, y: x**2 + y**2 <= 0.92**2,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.8,
    "triangle": lambda x, y: (y >= -0.85) & (abs(x) <= 0.6 * (1.0 - y)),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1.06,
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.34) & (np.maximum(abs(x), abs(y)) <= 1.0),
    "ring": lambda x, y: (x**2 + y**2 <= 1.0) & (x**2 + y**2 >= 0.5**2),
}
