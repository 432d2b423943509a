"""Street scenes as from a car, drawn at any size, with the exact class of each pixel and boxes of objects."""

import numpy as np
from numpy.typing import NDArray

from danqing.data.augment import Augment
from danqing.data.builtin.scene_canvas import Area, Canvas, Dice, Floats, Scene, ellipse, rectangle
from danqing.data.builtin.scene_source import SceneKind, open_scenes
from danqing.data.records import About, Source
from danqing.progress import ProgressCallback

SUMMARY = "drawn streets at any size, with masks of 8 classes and boxes; streets:5000 draws that many"
ABOUT = About(
    "streets",
    "CC0 1.0",
    "Drawn by Danqing: streets as from a car, with the exact class of each pixel and boxes of objects.",
    Augment(flip=True),
)
CLASSES = ("road", "pavement", "building", "sky", "tree", "car", "person", "sign")
OBJECTS = ("car", "person", "sign")
"""The classes whose objects have boxes."""
ROAD, PAVEMENT, BUILDING, SKY, TREE, CAR, PERSON, SIGN = range(len(CLASSES))

_SKIES = ((110, 160, 225), (170, 190, 210), (205, 205, 205), (150, 150, 165), (225, 180, 150), (90, 110, 150))
_WALLS = ((180, 90, 70), (200, 180, 150), (140, 140, 145), (225, 215, 200), (120, 100, 90), (95, 115, 130))
_LEAVES = ((60, 110, 45), (95, 125, 60), (40, 80, 50), (150, 120, 50), (120, 75, 45))
_PAINTS = (
    (190, 30, 35),
    (30, 60, 150),
    (235, 235, 235),
    (35, 35, 40),
    (150, 155, 160),
    (60, 110, 80),
    (210, 170, 60),
)
_SKINS = ((235, 195, 165), (195, 145, 110), (120, 80, 60))
_PLATES = ((200, 35, 35), (35, 80, 175), (235, 200, 40), (240, 240, 240))


def fetch(on_progress: ProgressCallback | None = None) -> None:
    """Download nothing: the images are drawn."""


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the drawn images; `part` may set the number of training images."""
    return open_scenes(SceneKind(ABOUT, 1, CLASSES, OBJECTS, drawn), split, part), ()


class _View:
    """Where things of the street appear. Depths are from 1, at the lower edge, to infinity."""

    def __init__(self, canvas: Canvas, dice: Dice) -> None:
        self.canvas, self.dice = canvas, dice
        self.horizon = canvas.height * dice.between(0.3, 0.5)
        self.vanishing = canvas.width * dice.between(0.3, 0.7)
        self.road = dice.between(0.45, 0.8)
        """Half of the road's width at depth 1."""
        self.pavement = dice.between(0.15, 0.4)
        self.sky = dice.one_of(_SKIES) * dice.between(0.8, 1.1)
        self.fog = dice.between(0.0, 0.12)

    def x(self, beside: float, depth: float) -> float:
        """Return where something stands. beside: the middle of the road, in shorter sides at depth 1."""
        return self.vanishing + beside / depth

    def y(self, depth: float) -> float:
        """Return where the ground lies."""
        return self.horizon + (self.canvas.height - self.horizon) / depth

    def seen(self, colour: Floats, depth: float) -> Floats:
        """Return a colour behind the fog."""
        share = float(np.exp(-self.fog * (depth - 1)))
        return colour * share + self.sky * (1 - share)


def drawn(name: str, size: tuple[int, int]) -> Scene:
    """Draw a street of `size` (width, height). name: decides everything random."""
    dice, canvas = Dice(name), Canvas(size)
    view = _View(canvas, dice)
    _sky(view)
    _ground(view)
    _rows_of_buildings(view)
    things = [(dice.between(1.6, 6.0), _tree) for _ in range(dice.whole(0, 4))]
    things += [(dice.between(1.3, 3.0), _sign) for _ in range(dice.whole(0, 3))]
    things += [(dice.between(1.2, 5.0), _car) for _ in range(dice.whole(0, 4))]
    things += [(dice.between(1.3, 3.5), _person) for _ in range(dice.whole(0, 4))]
    for depth, thing in sorted(things, key=lambda each: -each[0]):
        thing(view, depth)
    light = dice.between(0.45, 1.1) * dice.colour(0.9, 1.1)
    return canvas.finished(dice, grain=dice.between(2, 14), gain=light)


def _sky(view: _View) -> None:
    canvas, dice = view.canvas, view.dice
    area = canvas.area(0, 0, canvas.width, view.horizon + 0.02)
    pale = np.clip(area.y / view.horizon, 0, 1)[..., None]
    colour = view.sky * (1 - 0.3 * pale) + 245 * 0.3 * pale
    clouds = np.clip(dice.smooth(area.shape, dice.whole(2, 6)), 0, 1)[:, :, None] * dice.between(0, 0.9)
    canvas.paint(area, np.ones(area.shape, bool), colour * (1 - clouds) + 240 * clouds, SKY)


def _ground(view: _View) -> None:
    canvas, dice = view.canvas, view.dice
    area = canvas.area(0, view.horizon, canvas.width, canvas.height)
    nearness = np.maximum((area.y - view.horizon) / (canvas.height - view.horizon), 1e-3)  # 1 / depth
    depth, beside = 1 / nearness, (area.x - view.vanishing) / nearness
    stone = dice.one_of(((165, 160, 150), (140, 135, 135), (185, 170, 150), (115, 125, 105)))
    tiles = (np.floor(beside * 6) + np.floor(depth * 3)) % 2 * dice.between(0, 14)
    everywhere = np.ones(area.shape, bool)
    canvas.paint(area, everywhere, stone + tiles[:, :, None].astype(np.float32), PAVEMENT)
    is_road = np.abs(beside) < view.road
    tar = dice.one_of(((75, 75, 80), (100, 98, 95), (120, 118, 118), (60, 60, 70)))
    patches = dice.smooth(area.shape, 5)[:, :, None] * dice.between(3, 16)
    canvas.paint(area, is_road, tar + patches, ROAD)
    if dice.chance(0.7):
        dashes = (np.abs(beside) < 0.025) & (np.floor(depth * 2 + dice.between(0, 2)) % 2 == 0)
        canvas.paint(area, dashes, np.asarray((225, 225, 215), np.float32), ROAD)
    if dice.chance(0.3):
        stripes = is_road & (np.abs(depth - dice.between(1.5, 2.5)) < 0.25) & (np.floor(beside * 7) % 2 == 0)
        canvas.paint(area, stripes, np.asarray((220, 220, 220), np.float32), ROAD)
    haze = np.exp(-view.fog * np.minimum(depth - 1, 60)) * np.ones(area.shape)
    canvas.shade(area, (haze + (1 - haze) * 1.3).astype(np.float32))
    canvas.shade(area, 1 + 0.2 * dice.smooth(area.shape, 3))


def _rows_of_buildings(view: _View) -> None:
    """Draw houses on both sides, the most distant first; where one is missing, the sky is seen or a hedge."""
    canvas, dice = view.canvas, view.dice
    edge = view.road + view.pavement
    depths = [(depth * dice.between(0.9, 1.1), side) for depth in (9, 6.5, 4.6, 3.2, 2.2) for side in (-1, 1)]
    for depth, side in depths:
        near = view.x(side * edge, depth)
        far = view.x(side * (edge + dice.between(1.0, 2.5)), depth)
        left, right = min(near, far), max(near, far)
        if dice.chance(0.25):
            _hedge(view, depth, left, right)
            continue
        top, bottom = view.horizon - dice.between(0.5, 1.6) / depth, view.y(depth)
        area = canvas.area(left, top, right, bottom)
        wall = dice.one_of(_WALLS) + dice.colour(-20, 20)
        glass = dice.colour(30, 200)
        rows, columns = dice.between(2, 6), dice.between(2, 6)
        across = (area.x - left) / max(right - left, 1e-6) * columns % 1
        down = (area.y - top) / max(bottom - top, 1e-6) * rows % 1
        windows = (across > 0.3) & (across < 0.75) & (down > 0.25) & (down < 0.7)
        colour = np.where(windows[:, :, None], view.seen(glass, depth), view.seen(wall, depth))
        canvas.paint(area, np.ones(area.shape, bool), colour.astype(np.float32), BUILDING)


def _hedge(view: _View, depth: float, left: float, right: float) -> None:
    dice = view.dice
    height = dice.between(0.1, 0.3) / depth
    area = view.canvas.area(left, view.horizon - height, right, view.y(depth))
    swing = 0.2 * np.sin((area.x - left) * (dice.between(10, 30) * depth) + dice.between(0, 6))
    inside = area.y > view.horizon - height * (0.8 + swing)
    view.canvas.paint(area, inside, _leaves(view, area, depth), TREE)


def _leaves(view: _View, area: Area, depth: float) -> Floats:
    colour = view.seen(view.dice.one_of(_LEAVES), depth)
    return colour * (1 + 0.25 * view.dice.noise(area.shape)[:, :, None])


def _tree(view: _View, depth: float) -> None:
    canvas, dice = view.canvas, view.dice
    side = -1 if dice.chance(0.5) else 1
    x, ground = view.x(side * (view.road + dice.between(0.08, 0.9)), depth), view.y(depth)
    height, width = dice.between(0.8, 1.5) / depth, dice.between(0.02, 0.05) / depth
    trunk = canvas.area(x - width, ground - height, x + width, ground)
    bark = view.seen(np.asarray((85, 65, 50), np.float32), depth)
    canvas.paint(trunk, rectangle(trunk, x - width, ground - height, x + width, ground), bark, TREE)
    radius = dice.between(0.25, 0.45) / depth
    crown = canvas.area(
        x - 2 * radius, ground - height - 2 * radius, x + 2 * radius, ground - height + radius
    )
    inside = np.zeros(crown.shape, bool)
    for _ in range(6):
        dx, dy = dice.between(-0.8, 0.8) * radius, dice.between(-0.9, 0.5) * radius
        part = radius * dice.between(0.35, 0.7)
        inside |= ellipse(crown, x + dx, ground - height + dy, part, part)
    canvas.paint(crown, inside, _leaves(view, crown, depth), TREE)


def _shadow(view: _View, x: float, depth: float, across: float) -> None:
    ground, down = view.y(depth), 0.05 / depth
    area = view.canvas.area(x - across, ground - down, x + across, ground + down)
    dark = ellipse(area, x, ground, across, down)
    view.canvas.shade(area, np.where(dark, 0.55, 1.0).astype(np.float32))


def _car(view: _View, depth: float) -> None:
    canvas, dice = view.canvas, view.dice
    x = view.x(dice.between(-0.75, 0.75) * view.road, depth)
    ground, half = view.y(depth), dice.between(0.16, 0.24) / depth
    height = half * dice.between(1.2, 1.7)
    _shadow(view, x, depth, half * 1.15)
    area = canvas.area(x - half, ground - height, x + half, ground)
    number, paint = canvas.new_object(CAR), dice.one_of(_PAINTS) * dice.between(0.8, 1.1)
    up = (ground - area.y) / height  # 0 at the wheels, 1 at the roof
    away = np.abs(area.x - x) / half
    body = (up > 0.12) & (up < 0.6) & (away < 0.98)
    roof = (up >= 0.55) & (away < 0.95 - 0.75 * (up - 0.55))
    wheels = (up <= 0.2) & (away > 0.6) & (away < 0.92)
    lit = view.seen(paint, depth) * (0.8 + 0.3 * up[..., None])
    canvas.paint(area, body | roof, np.broadcast_to(lit, (*area.shape, 3)).astype(np.float32), CAR, number)
    glass = (up > 0.6) & (up < 0.92) & (away < 0.8 - 0.75 * (up - 0.55))
    canvas.paint(area, glass, view.seen(dice.colour(30, 130), depth), CAR, number)
    canvas.paint(area, wheels, np.asarray((28, 28, 30), np.float32), CAR, number)
    lights = (up > 0.4) & (up < 0.52) & (away > 0.72) & (away < 0.92)
    lamp = dice.one_of(((225, 40, 30), (250, 245, 200)))
    canvas.paint(area, lights, view.seen(lamp, depth), CAR, number)


def _person(view: _View, depth: float) -> None:
    canvas, dice = view.canvas, view.dice
    x = view.x(dice.between(-1, 1) * (view.road + 0.7 * view.pavement), depth)
    ground, height = view.y(depth), dice.between(0.3, 0.48) / depth
    _shadow(view, x, depth, 0.25 * height)
    wide = 0.2 * height
    area = canvas.area(x - wide, ground - height, x + wide, ground)
    number = canvas.new_object(PERSON)
    spread = dice.between(0.02, 0.09) * height
    legs = (np.abs(np.abs(area.x - x) - spread) < 0.05 * height) & (area.y > ground - 0.5 * height)
    canvas.paint(area, legs, view.seen(dice.colour(20, 160), depth), PERSON, number)
    coat = view.seen(dice.colour(20, 240), depth)
    torso = ellipse(area, x, ground - 0.62 * height, dice.between(0.1, 0.16) * height, 0.24 * height)
    canvas.paint(area, torso, coat, PERSON, number)
    head = ellipse(area, x, ground - 0.91 * height, 0.07 * height, 0.09 * height)
    canvas.paint(area, head, view.seen(dice.one_of(_SKINS), depth), PERSON, number)


def _sign(view: _View, depth: float) -> None:
    canvas, dice = view.canvas, view.dice
    side = -1 if dice.chance(0.5) else 1
    x, ground = view.x(side * (view.road + dice.between(0.03, 0.12)), depth), view.y(depth)
    height, plate = dice.between(0.55, 0.9) / depth, dice.between(0.07, 0.12) / depth
    width = 0.014 / depth
    area = canvas.area(x - plate, ground - height - plate, x + plate, ground)
    number = canvas.new_object(SIGN)
    grey = view.seen(np.asarray((130, 130, 135), np.float32), depth)
    canvas.paint(area, rectangle(area, x - width, ground - height, x + width, ground), grey, SIGN, number)
    colour, shape = view.seen(dice.one_of(_PLATES), depth), dice.whole(0, 2)
    for share, shown in ((1.0, colour), (0.6, view.seen(np.asarray((240, 240, 240), np.float32), depth))):
        canvas.paint(area, _plate(area, shape, x, ground - height, share * plate), shown, SIGN, number)


def _plate(area: Area, shape: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    """Return the points of a disc, a square or a triangle."""
    if shape == 0:
        return ellipse(area, x, y, radius, radius)
    if shape == 1:
        return rectangle(area, x - 0.85 * radius, y - 0.85 * radius, x + 0.85 * radius, y + 0.85 * radius)
    found: NDArray[np.bool_] = (area.y < y + 0.8 * radius) & (
        np.abs(area.x - x) < 0.55 * (area.y - (y - radius))
    )
    return found
