"""Boxes drawn on images, each in the colour of its class, with the name of the class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.evaluation.mask_overlays import class_colours
from danqing.images import Pixels, to_pil

_SMALLEST = 160
"""The shorter side to which smaller images are enlarged, so that names can be read."""


def draw_boxes(
    pixels: Pixels,
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """Draw boxes on an image uint8 `[h, w, c]`.

    A small image is enlarged in whole steps.
    boxes: left, top, right, bottom in pixels of the image. classes: numbers of the `names`. scores: in
    [0, 1].
    """
    image = to_pil(pixels).convert("RGB")
    scale = max(1, -(-_SMALLEST // min(image.size)))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    canvas, line = ImageDraw.Draw(image), max(1, min(image.size) // 160)
    colours, letters = class_colours(len(names)), max(9, min(image.size) // 20)
    font = ImageFont.load_default(letters)
    for number in np.argsort([0.0] * len(boxes) if scores is None else scores, kind="stable").tolist():
        left, top, right, bottom = (scale * side for side in boxes[number])
        colour = tuple(colours[classes[number]].tolist())
        canvas.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        text = names[classes[number]] + ("" if scores is None else f" {scores[number]:.0%}")
        corner = (left, max(0, top - letters - 2))
        canvas.rectangle(canvas.textbbox(corner, text, font=font), fill=colour)
        canvas.text(corner, text, fill="white", font=font)
    return image
