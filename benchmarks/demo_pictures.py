"""Compose the pictures and captions that the model of `danqing demo` learns from.

    npm pack cldr-annotations-full@48.2.0
    python benchmarks/demo_pictures.py --annotations cldr-annotations-full-48.2.0.tgz --out pictures.zip

A picture shows an emoji of OpenMoji as it is, in another colour, on a coloured background, two or three
times, or beside another emoji. Captions say so in English and Chinese, with the names and keywords that
Unicode gives in its CLDR annotations. The combinations of the split `test` do not occur in `train`.
Needs danqing[emoji].
"""

import argparse
import functools
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from danqing import atomic
from danqing.data.builtin.emoji import EmojiSource, render

SIZE, LARGE = 64, 128
SHARES = {"plain": 38, "background": 20, "colour": 18, "both": 8, "pair": 9, "count": 7}
"""How often each kind of picture is drawn."""
WEIGHTS = {
    "smileys-emotion": 0.8,
    "people-body": 0.7,
    "animals-nature": 1.3,
    "food-drink": 1.2,
    "travel-places": 1.0,
    "activities": 0.9,
    "objects": 0.9,
}
"""How often an emoji of each group is drawn: what a newcomer would try first is learned best."""
COUNTABLE = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
"""The groups whose emoji are put beside others, or drawn several times."""

PALETTE = {
    "red": ("#ea5a47", "#d22f27", "红"),
    "orange": ("#f4903c", "#e27022", "橙"),
    "yellow": ("#fcea2b", "#f1b31c", "黄"),
    "green": ("#b1cc33", "#5c9e31", "绿"),
    "blue": ("#92d3f5", "#3f8ed0", "蓝"),
    "purple": ("#b399c8", "#8967aa", "紫"),
    "pink": ("#ffa7c0", "#e67a94", "粉"),
    "brown": ("#a57939", "#6a462f", "棕"),
    "grey": ("#d0cfce", "#8b8b8a", "灰"),
}
"""Colours of OpenMoji: a light and a dark shade, and the Chinese word."""
BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey")
COLOUR_WORDS = {*PALETTE, "black", "white"}
NOT_NOUNS = {*COLOUR_WORDS, "gray", "where", "3", *"红橙黄绿蓝紫粉棕灰黑白青", "红色", "黄色", "绿色", "蓝色"}
"""Keywords that are never used as the name of an emoji."""

CHOSEN = (
    "😀😁😂🙂😉😊😇🥰😍🤩😘😋😛😜🤔😐🙄😴😷🤢🥶🥵🤯🤠🥳😎🤓😮😢😭😱😡😈💀💩🤡👻👽🤖❤💔💋"
    "👶👦👧👨👩👴👵👮👷💂👸🤴🧙🧛🧜🧚🎅👍✌👋💪👀👄👣"
    "🐒🦍🐕🐩🐺🦊🐈🦁🐯🐎🦄🦓🦌🐄🐖🐑🐐🐪🦙🦒🐘🦏🐁🐹🐇🐿🦔🦇🐻🐨🐼🦥🦘🐓🐤🦃🐧🐦🦅🦆🦢🦉🦩🦚🦜🐸🐊🐢🦎🐍🐉🦖🦕"
    "🐋🐬🐟🐠🐡🦈🐙🐚🐌🦋🐛🐜🐝🐞🕷🦂🦀🦞🦐💐🌸🌹🌻🌷🌱🌲🌳🌴🌵🍀🍁🍄"
    "🍇🍉🍊🍋🍌🍍🥭🍎🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🥕🌽🥒🥦🧄🧅🍞🥐🥨🧀🍗🥩🥓🍔🍟🍕🌭🥪🌮🥚🍳🍿🍙🍜🍝🍣🍤🍦🍩🍪🎂🍰🧁🍫🍬🍭🍯🍼☕🍵🍷🍺"
    "🚂🚌🚑🚒🚓🚕🚗🚚🚜🏍🚲🛴🛹⛵🚢✈🚁🚀🛸⚓🏠🏢🏰⛪🗼🗽⛺🎡🌋🏔🌞🌙⭐🌈☁❄⛄🔥💧🌊☀⚡☂🌍"
    "⚽🏀🏈⚾🎾🎱🥊🎯🎲🧩🧸🎁🎈🎄🎨🏆🥇🎃"
    "👑🎩👓👕👖👗👟👠👜💍💎🎸🎹🎺🎻🥁📱💻📷📺📻⏰🔑🔒🔨🔧🧲💣🏹🛡🔭🔬💡📕✏✂🚪🪑🛏🚽🛁🧹🕯☎⌛🧭✉📦"
)
"""What the model learns: few enough things that a small model draws each of them well."""
SHARED = 4
"""A keyword of more emoji than this is left out: it says little about a picture."""
VARIATION = "\ufe0f"


@dataclass(frozen=True)
class Emoji:
    """An emoji with its names, most usual first, in English and Chinese."""

    text: str
    group: str
    english: tuple[str, ...]
    chinese: tuple[str, ...]

    @property
    def plain_english(self) -> tuple[str, ...]:
        """Return the English names without a colour in front."""
        return tuple(_without_colour(name) for name in self.english)

    @property
    def plain_chinese(self) -> tuple[str, ...]:
        return tuple(_without_chinese_colour(name) for name in self.chinese)


@dataclass(frozen=True)
class Picture:
    """What a picture shows; it has a name of its own, so that none occurs twice by chance."""

    kind: str
    emoji: tuple[Emoji, ...]
    colour: str = ""
    background: str = ""
    count: int = 1
    captions: tuple[str, ...] = field(default=(), compare=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, help="the package of the annotations")
    parser.add_argument("--train", type=int, default=24_000)
    parser.add_argument("--test", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    emoji = choose(arguments.annotations)
    rng = random.Random(arguments.seed)
    test = dict.fromkeys(pictures(emoji, arguments.test, rng, plain=False))
    train = [picture for picture in pictures(emoji, arguments.train, rng) if picture not in test]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split, chosen in (("test", list(test)), ("train", train)):
            lines = []
            for number, picture in enumerate(chosen):
                name = f"{number:05d}.png"
                archive.writestr(_entry(f"{split}/{name}"), png(draw(picture)))
                lines.append({"file_name": name, "text": "\n".join(picture.captions)})
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            archive.writestr(_entry(f"{split}/metadata.jsonl"), text)
    atomic.write_bytes(arguments.out, content.getvalue())
    print(json.dumps({"emoji": len(emoji), "train": len(train), "test": len(test)}))


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry with a fixed date, so that the same pictures give the same file."""
    return zipfile.ZipInfo(name)


def choose(annotations: Path) -> list[Emoji]:
    """Choose the emoji, with names and keywords from the package `cldr-annotations-full`.

    They are those in `CHOSEN`.
    """
    english, chinese = (_annotations(annotations, language) for language in ("en", "zh"))
    kept = [each for each in EmojiSource(())._emoji if each[0].replace(VARIATION, "") in set(CHOSEN)]
    common = {
        language: Counter(word for text, _, _ in kept for word in _notes(table, text)[1])
        for language, table in (("en", english), ("zh", chinese))
    }
    found = []
    for text, group, caption in kept:
        names = caption.split("\n")
        words: list[tuple[str, ...]] = []
        for language, table, name in (("en", english, names[0]), ("zh", chinese, names[-1])):
            title, keywords = _notes(table, text)
            known = [word for word in keywords if common[language][word] <= SHARED and word not in NOT_NOUNS]
            known.sort(key=lambda word: (word not in title, common[language][word], word))
            words.append(tuple(dict.fromkeys([title or name, name.lower(), *known]))[:12])
        found.append(Emoji(text, group, words[0], words[1]))
    return found


@functools.cache
def _annotations(package: Path, language: str) -> dict[str, dict[str, list[str]]]:
    with tarfile.open(package) as archive:
        file = archive.extractfile(f"package/annotations/{language}/annotations.json")
        assert file is not None
        table: dict[str, dict[str, list[str]]] = json.load(file)["annotations"]["annotations"]
        return table


def _notes(table: dict[str, dict[str, list[str]]], text: str) -> tuple[str, list[str]]:
    """Return the name and the keywords of an emoji; those of people of one gender have none of their own."""
    entry = table.get(text) or table.get(text.replace(VARIATION, "")) or {}
    return (entry.get("tts") or [""])[0].lower(), [word.lower() for word in entry.get("default", [])]


def pictures(emoji: list[Emoji], count: int, rng: random.Random, *, plain: bool = True) -> Iterator[Picture]:
    """Draw what pictures show, at random."""
    shares = {kind: share for kind, share in SHARES.items() if plain or kind != "plain"}
    weights = [WEIGHTS[each.group] for each in emoji]
    many = [each for each in emoji if each.group in COUNTABLE]
    many_weights = [WEIGHTS[each.group] for each in many]
    for kind in rng.choices(list(shares), list(shares.values()), k=count):
        if kind in ("pair", "count"):
            chosen = rng.choices(many, many_weights, k=2 if kind == "pair" else 1)
        else:
            chosen = rng.choices(emoji, weights)
        colour = rng.choice(list(PALETTE)) if kind in ("colour", "both") else ""
        behind = kind in ("background", "both") or (kind in ("pair", "count") and rng.random() < 0.3)
        background = rng.choice([each for each in BACKGROUNDS if each != colour]) if behind else ""
        number = rng.choice((2, 3)) if kind == "count" else 1
        picture = Picture(kind, tuple(chosen), colour, background, number)
        yield replace(picture, captions=tuple(captions(picture, rng)))


def captions(picture: Picture, rng: random.Random) -> list[str]:
    """Write three captions in English and two in Chinese."""
    return [*(_english(picture, rng, n) for n in range(3)), *(_chinese(picture, rng, n) for n in range(2))]


def _name(names: tuple[str, ...], rng: random.Random, number: int) -> str:
    """Choose a name: the usual one first, then also keywords."""
    return names[0] if number == 0 or rng.random() < 0.4 else rng.choice(names)


def _english(picture: Picture, rng: random.Random, number: int) -> str:
    plain = bool(picture.colour)
    nouns = [_name(each.plain_english if plain else each.english, rng, number) for each in picture.emoji]
    if picture.kind == "count":
        words = f"{('two', 'three')[picture.count - 2]} {plural(nouns[0])}"
    else:
        if picture.colour:
            nouns = [f"{picture.colour} {noun}" for noun in nouns]
        if rng.random() < 0.5:
            nouns = [f"{_article(noun)} {noun}" for noun in nouns]
        words = rng.choice((" and ", " and ", " with ")).join(nouns)
    if picture.background:
        background = picture.background
        words += " on " + rng.choice((f"{_article(background)} {background} background",) * 2 + (background,))
    return words


def _chinese(picture: Picture, rng: random.Random, number: int) -> str:
    plain = bool(picture.colour)
    nouns = [_name(each.plain_chinese if plain else each.chinese, rng, number) for each in picture.emoji]
    if picture.colour:
        of = rng.choice(("色的", "色的", "色"))
        nouns = [f"{PALETTE[picture.colour][2]}{of}{noun}" for noun in nouns]
    if picture.kind == "count":
        nouns = [f"{'两三'[picture.count - 2]}{rng.choice('个个只')}{nouns[0]}"]
    words = rng.choice(("和", "和", "与")).join(nouns)
    if picture.background:
        behind = f"{PALETTE[picture.background][2]}色背景"
        words = rng.choice((f"{behind}上的{words}", f"{words}，{behind}"))
    return words


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def plural(noun: str) -> str:
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun if noun.endswith("s") and not noun.endswith("ss") else f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def _without_colour(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if first in COLOUR_WORDS and rest else name


def _without_chinese_colour(name: str) -> str:
    for word in "红橙黄绿蓝紫粉棕灰黑白青":
        for start in (f"{word}色的", f"{word}色", word):
            if name.startswith(start) and len(name) > len(start):
                return name[len(start) :]
    return name


@functools.lru_cache(maxsize=4096)
def drawing(text: str) -> np.ndarray:
    """Render an emoji, premultiplied float32 `[128, 128, 4]` in [0, 1]."""
    pixels = np.asarray(render(EmojiSource(())._font, text, (LARGE, LARGE)), np.float32) / 255
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=2)


def coloured(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Replace the colours of an emoji by shades of one; lines stay black.

    Light areas without a colour are replaced too where there is little else.
    """
    light, dark = (_rgb(shade) for shade in PALETTE[colour][:2])
    alpha = pixels[..., 3:]
    rgb = pixels[..., :3] / np.maximum(alpha, 1e-3)
    high, low = rgb.max(2, keepdims=True), rgb.min(2, keepdims=True)
    chroma = np.clip((high - low) * 6 - 0.3, 0, 1)
    drawn = (alpha > 0.5).sum()
    if (chroma * (alpha > 0.5)).sum() < 0.35 * drawn:
        chroma = np.maximum(chroma, np.clip(low * 3 - 1, 0, 1))
    level = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    inside = (chroma[..., 0] > 0.5) & (alpha[..., 0] > 0.5)
    if not inside.any():
        return pixels
    least, most = np.quantile(level[inside], [0.05, 0.95])
    place = (
        np.clip((level - least) / max(most - least, 1e-3), 0, 1)[..., None] if most - least > 0.05 else 1.0
    )
    shade = dark + (light - dark) * place
    mixed = rgb + (shade - rgb) * chroma
    return np.concatenate([mixed * alpha, alpha], axis=2).astype(np.float32)


def _rgb(shade: str) -> np.ndarray:
    return np.array([int(shade[at : at + 2], 16) for at in (1, 3, 5)], np.float32) / 255


PLACES = {1: ((32, 32, 64),), 2: ((17, 32, 33), (47, 32, 33)), 3: ((32, 17, 32), (17, 47, 32), (47, 47, 32))}
"""Centres and sides of the emoji of a picture, in pixels."""


def draw(picture: Picture) -> Image.Image:
    """Draw a picture, RGB 64×64."""
    behind = _rgb(PALETTE[picture.background][0]) if picture.background else np.ones(3, np.float32)
    whole = np.broadcast_to(behind, (LARGE, LARGE, 3)).copy()
    several = list(picture.emoji) * picture.count
    for each, (x, y, side) in zip(several, PLACES[len(several)], strict=True):
        pixels = drawing(each.text)
        if picture.colour:
            pixels = coloured(pixels, picture.colour)
        # A background shows around the emoji.
        side = 2 * side - (12 if picture.background and len(several) == 1 else 0)
        pixels = _resized(pixels, side)
        top, left = 2 * y - side // 2, 2 * x - side // 2
        part = whole[top : top + side, left : left + side]
        part[:] = part * (1 - pixels[..., 3:]) + pixels[..., :3]
    return Image.fromarray((_resized(whole, SIZE) * 255).round().astype(np.uint8))


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize to side×side. Pillow resizes floats of one channel only, so each channel is resized alone."""
    if side == pixels.shape[0]:
        return pixels
    parts = [
        np.asarray(Image.fromarray(pixels[..., channel]).resize((side, side), Image.Resampling.LANCZOS))
        for channel in range(pixels.shape[2])
    ]
    resized: np.ndarray = np.clip(np.stack(parts, axis=2), 0, 1)
    return resized


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


if __name__ == "__main__":
    main()
