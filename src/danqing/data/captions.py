"""Captions: an image may have several, one per line of its text."""

from collections.abc import Sequence

from danqing.randomness import derived_seed


def captions_of(text: str) -> list[str]:
    """List the captions in the text of one image, one per line.

    Only a line feed ends a line: a form feed or U+2028 may be part of a caption.
    """
    return [line for line in map(str.strip, text.split("\n")) if line]


def chosen(texts: Sequence[str], seed: int, images_seen: int) -> tuple[str, ...]:
    """Choose a caption for each image that follows after `images_seen`.

    "" if an image has none.

    The choice depends only on the seed and the image's position in the run, not on the batch size.
    """
    return tuple(_one(captions_of(text), seed, images_seen + row) for row, text in enumerate(texts))


def _one(lines: Sequence[str], seed: int, place: int) -> str:
    if len(lines) < 2:
        return lines[0] if lines else ""
    return lines[derived_seed(seed, "caption", place) % len(lines)]
