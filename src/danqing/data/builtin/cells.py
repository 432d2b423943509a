"""Cells as under a microscope, drawn at any size, with the exact class of each pixel and boxes of cells."""

import numpy as np
from numpy.typing import NDArray

from danqing.data.augment import Augment
from danqing.data.builtin.scene_canvas import Area, Canvas, Dice, Floats, Scene
from danqing.data.builtin.scene_source import SceneKind, open_scenes
from danqing.data.records import About, Source
from danqing.progress import ProgressCallback

SUMMARY = "drawn cells at any size, with masks of 4 classes and boxes; cells:5000 draws that many"
ABOUT = About(
    "cells",
    "CC0 1.0",
    "Drawn by Danqing: cells as under a microscope, with the exact class of each pixel and boxes of cells.",
    Augment(flip=True),
)
CLASSES = ("background", "cell", "nucleus", "debris")
OBJECTS = ("cell",)
"""The classes whose objects have boxes."""
BACKGROUND, CELL, NUCLEUS, DEBRIS = range(len(CLASSES))

_WAVES = 4
"""How many waves the outline of a cell has around its circle."""


def fetch(on_progress: ProgressCallback | None = None) -> None:
    """Download nothing: the images are drawn."""


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the drawn images; `part` may set the number of training images."""
    return open_scenes(SceneKind(ABOUT, 1, CLASSES, OBJECTS, drawn), split, part), ()


def drawn(name: str, size: tuple[int, int]) -> Scene:
    """Draw cells in an image of `size` (width, height). name: decides everything random.

    Half of the images are bright and stained, half are dark and fluorescent.
    """
    dice, canvas = Dice(name), Canvas(size)
    is_dark = dice.chance(0.5)
    ground = dice.colour(5, 40) if is_dark else dice.colour(205, 245)
    body = dice.colour(40, 120) if is_dark else ground * np.asarray((0.92, 0.72, 0.85), np.float32)
    core = dice.colour(110, 235) if is_dark else dice.one_of(((95, 70, 150), (70, 60, 120), (120, 80, 140)))
    strength = dice.between(0.35, 1.0)  # of the stain
    body, core = ground + strength * (body - ground), ground + (0.4 + 0.6 * strength) * (core - ground)
    whole = canvas.everywhere()
    canvas.paint(whole, np.ones(whole.shape, bool), ground, BACKGROUND)
    reach = dice.between(0.07, 0.16)
    many = dice.whole(3, max(4, round(0.35 * canvas.width * canvas.height / reach**2 / 3)))
    for _ in range(many):
        x, y = dice.between(0, canvas.width), dice.between(0, canvas.height)
        radius = reach * dice.between(0.7, 1.3)
        number, bright = canvas.new_object(CELL), dice.between(0.85, 1.15)
        outline = _Outline(dice, x, y, radius)
        _paint(canvas, dice, outline, body * bright, CELL, number)
        far = 0.25 * radius
        nucleus = _Outline(
            dice, x + dice.between(-far, far), y + dice.between(-far, far), radius * dice.between(0.3, 0.5)
        )
        _paint(canvas, dice, nucleus, core * bright, NUCLEUS, number, within=outline)
    for _ in range(dice.whole(0, 5)):
        x, y = dice.between(0, canvas.width), dice.between(0, canvas.height)
        speck = _Outline(dice, x, y, reach * dice.between(0.12, 0.3), rough=0.35)
        shown = (core if dice.chance(0.6) else ground) * dice.between(0.6, 1.2)
        _paint(canvas, dice, speck, shown, DEBRIS, 0)
    uneven = 1 + dice.between(0, 0.35) * dice.smooth((size[1], size[0]), 2)[:, :, None]
    return canvas.finished(dice, grain=dice.between(3, 16), gain=uneven.astype(np.float32))


class _Outline:
    """A closed line around a point, whose distance from it varies with the angle."""

    def __init__(self, dice: Dice, x: float, y: float, radius: float, rough: float = 0.14) -> None:
        self.x, self.y, self.radius, self.most = x, y, radius, radius * (1 + 2 * rough)
        self._swings = [dice.between(-rough, rough) / (0.7 + 0.5 * wave) for wave in range(_WAVES)]
        self._turns = [dice.between(0, 2 * np.pi) for _ in range(_WAVES)]

    def around(self, canvas: Canvas) -> Area:
        """Return the points near the outline."""
        return canvas.area(self.x - self.most, self.y - self.most, self.x + self.most, self.y + self.most)

    def inside(self, area: Area) -> NDArray[np.bool_]:
        """Return which points lie within the line."""
        dx, dy = area.x - self.x, area.y - self.y
        angle = np.arctan2(dy, dx)
        waves = sum(
            swing * np.cos((wave + 2) * angle + turn)
            for wave, (swing, turn) in enumerate(zip(self._swings, self._turns, strict=True))
        )
        found: NDArray[np.bool_] = np.hypot(dx, dy) <= np.minimum(self.radius * (1 + waves), self.most)
        return found


def _paint(
    canvas: Canvas,
    dice: Dice,
    outline: _Outline,
    colour: Floats,
    label: int,
    number: int,
    within: _Outline | None = None,
) -> None:
    area = outline.around(canvas)
    inside = outline.inside(area)
    if within is not None:
        inside &= within.inside(area)
    texture = 1 + 0.12 * dice.noise(area.shape)[:, :, None]
    canvas.paint(area, inside, (colour * texture).astype(np.float32), label, number)
