"""A canvas for drawn scenes: colours, the class of each pixel and the object that it belongs to.

Everything is drawn on a grid of points, several to a pixel. A pixel has the mean colour of its points and the
class of the middle one, so that masks are exact and edges are smooth.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.images import Pixels

_POINTS = 3
"""Points of a pixel along each axis; odd, so that one lies in the middle."""
_FEWEST_VISIBLE = 9
"""An object of which fewer pixels are visible has no box."""

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]


class Scene(NamedTuple):
    """A drawn image with what it shows.

    pixels: uint8 `[h, w, 3]`. mask: uint8 `[h, w]`, the class of each pixel. boxes: float32 `[m, 4]`: left,
    top, right and bottom of what is visible of each object, in pixels. box_labels: int64 `[m]`, their classes
    in the mask.
    """

    pixels: Pixels
    mask: Mask
    boxes: NDArray[np.float32]
    box_labels: NDArray[np.int64]


class Dice:
    """Random choices that depend only on a name.

    Textures have a stream of their own, so that a scene has the same objects at every size.
    """

    def __init__(self, name: str) -> None:
        self._rng, self._textures = (_stream(f"{name}/{purpose}") for purpose in ("choices", "textures"))

    def between(self, low: float, high: float) -> float:
        """Draw a number from a range, evenly."""
        return low + (high - low) * float(self._rng.random())

    def whole(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return low + int((high - low + 1) * self._rng.random())

    def one_of(self, choices: Sequence[Sequence[float]]) -> Floats:
        """Draw one of several colours."""
        return np.asarray(choices[self.whole(0, len(choices) - 1)], np.float32)

    def colour(self, low: float = 0.0, high: float = 255.0) -> Floats:
        """Draw red, green and blue from a range, evenly."""
        return np.asarray([self.between(low, high) for _ in range(3)], np.float32)

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self._rng.random() < probability)

    def noise(self, shape: tuple[int, ...]) -> Floats:
        """Draw values around 0 in [-1, 1], small ones more often."""
        return (self._textures.random(shape) + self._textures.random(shape) - 1).astype(np.float32)

    def smooth(self, shape: tuple[int, int], waves: int) -> Floats:
        """Draw a smooth field `[h, w]` in [-1, 1].

        waves: about how many it has along the shorter side.
        """
        shorter = min(shape)
        knots = [max(2, round(waves * side / shorter) + 1) for side in shape]
        values = self._textures.random(knots) * 2 - 1
        down, across = (_between_knots(side, count) for side, count in zip(shape, knots, strict=True))
        return (down @ values @ across.T).astype(np.float32)


def _stream(name: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return np.random.Generator(np.random.PCG64(seed))


def _between_knots(length: int, knots: int) -> NDArray[np.float64]:
    """Return the weights of evenly spaced knots at each point of a line, `[length, knots]`."""
    places = np.linspace(0, knots - 1, length)
    weights: NDArray[np.float64] = np.clip(1 - np.abs(places[:, None] - np.arange(knots)), 0, 1)
    return weights


class Area(NamedTuple):
    """A rectangle of points.

    x, y: their places, `[1, w]` and `[h, 1]`, in shorter sides of the image.
    """

    rows: slice
    columns: slice
    x: Floats
    y: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Return the points down and across."""
        return len(self.y), self.x.shape[1]


class Canvas:
    """An image under construction. Lengths are in shorter sides of the image.

    width, height: of the image; the shorter one is 1.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size, self._scale = size, min(size) * _POINTS
        self.width, self.height = size[0] / min(size), size[1] / min(size)
        shape = (size[1] * _POINTS, size[0] * _POINTS)
        self._colours = np.zeros((*shape, 3), np.float32)
        self._classes = np.zeros(shape, np.uint8)
        self._objects = np.zeros(shape, np.int32)
        self._labels: list[int] = []

    def area(self, left: float, top: float, right: float, bottom: float) -> Area:
        """Return the points of a rectangle that lie on the canvas.

        There may be none.
        """
        (top_, bottom_), (left_, right_) = (
            (min(max(int(np.floor(first * self._scale)), 0), length), int(np.ceil(last * self._scale)))
            for first, last, length in zip((top, left), (bottom, right), self._classes.shape, strict=True)
        )
        rows = slice(top_, max(top_, min(bottom_, self._classes.shape[0])))
        columns = slice(left_, max(left_, min(right_, self._classes.shape[1])))
        y = ((np.arange(rows.start, rows.stop) + 0.5) / self._scale).astype(np.float32)
        x = ((np.arange(columns.start, columns.stop) + 0.5) / self._scale).astype(np.float32)
        return Area(rows, columns, x[None], y[:, None])

    def everywhere(self) -> Area:
        """Return all points."""
        return self.area(0, 0, self.width, self.height)

    def new_object(self, label: int) -> int:
        """Return the number of a new object that gets a box.

        label: its class in the mask.
        """
        self._labels.append(label)
        return len(self._labels)

    def paint(
        self, area: Area, inside: NDArray[np.bool_], colour: Floats, label: int, number: int = 0
    ) -> None:
        """Paint the points of an area that are inside of a figure.

        inside: boolean `[h, w]`. colour: `[3]` or `[h, w, 3]`. label: the class. number: of the object.
        """
        place = (area.rows, area.columns)
        shown = np.broadcast_to(colour, (*area.shape, 3))
        self._colours[place][inside] = shown[inside]
        self._classes[place][inside] = label
        self._objects[place][inside] = number

    def shade(self, area: Area, factor: Floats) -> None:
        """Scale the colours of an area.

        factor: `[h, w]`.
        """
        self._colours[area.rows, area.columns] *= factor[:, :, None]

    def finished(self, dice: Dice, *, grain: float, gain: Floats) -> Scene:
        """Return the scene.

        grain: the deviation of the noise of a pixel, in levels. gain: of red, green and blue `[3]`, or of
            each pixel `[h, w, 3]`.
        """
        width, height = self._size
        mean = self._colours.reshape(height, _POINTS, width, _POINTS, 3).mean((1, 3)) * gain
        noisy = mean + dice.noise(mean.shape) * (grain * 6**0.5)  # `noise` has the variance 1/6
        middle = slice(_POINTS // 2, None, _POINTS)
        mask, objects = self._classes[middle, middle].copy(), self._objects[middle, middle]
        boxes, labels = [], []
        for number, label in enumerate(self._labels, 1):
            rows, columns = np.nonzero(objects == number)
            if len(rows) >= _FEWEST_VISIBLE:
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                labels.append(label)
        return Scene(
            np.clip(np.round(noisy), 0, 255).astype(np.uint8),
            mask,
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(labels, np.int64),
        )


def ellipse(area: Area, x: float, y: float, across: float, down: float) -> NDArray[np.bool_]:
    """Return which points lie in an ellipse. across, down: its half axes."""
    found: NDArray[np.bool_] = ((area.x - x) / across) ** 2 + ((area.y - y) / down) ** 2 <= 1
    return found


def rectangle(area: Area, left: float, top: float, right: float, bottom: float) -> NDArray[np.bool_]:
    """Return which points lie in a rectangle."""
    found: NDArray[np.bool_] = (area.x >= left) & (area.x < right) & (area.y >= top) & (area.y < bottom)
    return found
