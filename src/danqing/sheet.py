"""Pictures with words below them: a sheet that a stranger can read."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danqing.errors import DataError
from danqing.images import Images, grid_columns, save, to_pil

_TEXT, _INK, _PAPER, _EDGE = 13, "#2b2b30", "#ffffff", "#d8d5cf"
_GAP = 14


class Sheet:
    """Images on a sheet, each with a caption below it.

    columns: images in a row. note: a text below them all. font: a font file for the texts; by default a font
        with Latin, Greek and Cyrillic letters.
    Each pixel is enlarged to a square, until an image is about 128 pixels tall. Raises DataError where the
    numbers of images and captions differ.
    """

    def __init__(
        self,
        images: Images,
        captions: Sequence[str],
        *,
        columns: int | None = None,
        note: str = "",
        font: Path | None = None,
    ) -> None:
        if len(images) != len(captions) or not len(images):
            raise DataError(f"Give a caption per image: there are {len(captions)} for {len(images)} images.")
        self.images, self.captions, self.note, self.font = images, list(captions), note, font
        _, height, width, _ = images.array.shape
        self.columns = columns or grid_columns(len(images), width, height)

    def draw(self) -> Image.Image:
        """Draw the whole sheet, RGB."""
        n, height, width, _ = self.images.array.shape
        scale = max(1, 128 // max(height, width))
        font = ImageFont.load_default(_TEXT) if self.font is None else ImageFont.truetype(self.font, _TEXT)
        line = _TEXT + 4
        cell = max(width * scale, 104)
        letters = max(8, int(cell / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27))
        texts = [_wrapped(caption, letters) or [""] for caption in self.captions]
        rows = -(-n // self.columns)
        lines = [max(map(len, texts[r * self.columns : (r + 1) * self.columns])) for r in range(rows)]
        tops = np.cumsum([_GAP, *(height * scale + line * count + 2 * _GAP for count in lines)]).tolist()
        side = self.columns * (cell + _GAP) + _GAP
        notes = _wrapped(self.note, max(20, int(side / cell * letters * 0.9)))
        sheet = Image.new("RGB", (side, tops[-1] + line * len(notes) + (_GAP if notes else 0)), _PAPER)
        pen = ImageDraw.Draw(sheet)
        for number, (pixels, text) in enumerate(zip(self.images, texts, strict=True)):
            row, column = divmod(number, self.columns)
            left, top = _GAP + column * (cell + _GAP), tops[row]
            picture = to_pil(pixels.repeat(scale, axis=0).repeat(scale, axis=1)).convert("RGBA")
            x = left + (cell - picture.width) // 2
            sheet.paste(picture, (x, top), picture)
            pen.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=_EDGE)
            for place, part in enumerate(text):
                middle = left + (cell - font.getlength(part)) / 2
                pen.text((middle, top + picture.height + 6 + place * line), part, _INK, font)
        for place, part in enumerate(notes):
            pen.text((_GAP, tops[-1] + place * line), part, _INK, font)
        return sheet

    def save(self, path: str | Path) -> Path:
        """Write the sheet to `path`, atomically; the ending is the format."""
        path = Path(path)
        save(self.draw(), path, marks=self.images.marks)
        return path


def _wrapped(text: str, letters: int) -> list[str]:
    """Lines of at most so many letters; a no-break space keeps words together, and is drawn as any space."""
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(text, letters)]
