"""A picture of the samples that look most like training images, each beside the nearest ones."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.evaluation.contract import ImageSet
from danqing.evaluation.memorisation import Neighbourhood
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.images import conform

ROWS = 8
NEAREST = 4
_CELL, _GAP, _MARGIN, _LINE = 80, 6, 20, 18
_INK, _FAINT, _PAPER = (28, 28, 30), (110, 110, 116), (255, 255, 255)


def draw_neighbour_sheet(c: MetricInputs) -> Image.Image:
    """Draw the samples that are closest to training images, worst first.

    Left the sample; then the training images nearest by features, and those nearest by pixels, closest first.
    """
    near = c.near_generated
    rows = most_suspicious(near)
    shown = [column(near[space], rows) for space in ("features", "pixels")]
    block = shown[0].shape[1] * (_CELL + _GAP)
    lefts = [_MARGIN, _MARGIN + _CELL + 3 * _GAP, _MARGIN + _CELL + 6 * _GAP + block]
    width = max(lefts[2] + block - _GAP + _MARGIN, 560)
    top = _MARGIN + 5 * _LINE
    picture = Image.new("RGB", (width, top + len(rows) * (_CELL + _LINE + _GAP) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)
    _write(draw, _MARGIN, _MARGIN, "Samples beside the training images nearest to them", 16)
    for line, text in enumerate(
        (
            f"{len(rows)} of {len(c.judged):,} that are closest to single training images, worst first.",
            "Below: distance to the nearest over that to the next. 0 is a copy, near 1 is like any other.",
        )
    ):
        _write(draw, _MARGIN, _MARGIN + 24 + line * _LINE, text, 12, _FAINT)
    for left, title in zip(lefts, ("Sample", "Nearest by features", "Nearest by pixels"), strict=True):
        _write(draw, left, top - _LINE - 2, title, 13)
    for place, row in enumerate(rows):
        y = top + place * (_CELL + _LINE + _GAP)
        number = int(c.judged[row])
        picture.paste(_thumbnail(c.generated, number), (lefts[0], y))
        _write(draw, lefts[0], y + _CELL + 1, f"no. {number}", 12, _FAINT)
        for left, space, indices in zip(lefts[1:], ("features", "pixels"), shown, strict=True):
            for step, index in enumerate(indices[place]):
                picture.paste(_thumbnail(c.training, int(index)), (left + step * (_CELL + _GAP), y))
            isolation = float(near[space].isolation[row])
            said = "equal" if float(near[space].closest[row]) == 0 else f"{isolation:.2f}"
            _write(draw, left, y + _CELL + 1, said, 12, _FAINT)
    return picture


def most_suspicious(near: dict[str, Neighbourhood]) -> list[int]:
    """Return the rows of the most isolated samples, worst first."""
    ranks = [found.isolation.argsort(stable=True).argsort().numpy() for found in near.values()]
    worst = np.lexsort((np.sum(ranks, axis=0), np.min(ranks, axis=0)))
    return [int(row) for row in worst[:ROWS]]


def column(found: Neighbourhood, rows: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the training images nearest to some rows, `[len(rows), k]`."""
    return found.indices[rows, :NEAREST].numpy()


def _thumbnail(images: ImageSet, number: int) -> Image.Image:
    """One image within a cell: whole pixels where it is enlarged, averaged where it is shrunk."""
    pixels = conform(images.images(np.array([number]))[0].numpy(), channels=3)
    image = Image.fromarray(pixels)
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    cell = Image.new("RGB", (_CELL, _CELL), (240, 240, 242))
    cell.paste(image.resize(size, method), ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2))
    return cell


def _write(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, ink: tuple[int, int, int] = _INK
) -> None:
    draw.text((x, y), text, fill=ink, font=ImageFont.load_default(size))
