"""Captions: an image may have several, one to a line of its text."""

from collections.abc import Sequence

from danqing.randomness import derived_seed


def captions_of(text: str) -> list[str]:
    """List the captions in the text of one image, one to a line.

    Only a line feed ends a line: a form feed or U+2028 may be part of a caption.
    """
    return [line for line in map(str.strip, text.split("\n")) if line]


def chosen(texts: Sequence[str], seed: int, images_seen: int) -> tuple[str, ...]:
    """One caption for each of the images that follow after `images_seen`, "" where an image has none.

    Which one follows from the seed and the image's place in the run alone, not from the size of batches.
    """
    return tuple(_one(captions_of(text), seed, images_seen + row) for row, text in enumerate(texts))


def _one(lines: Sequence[str], seed: int, place: int) -> str:
    if len(lines) < 2:
        return lines[0] if lines else ""
    return lines[derived_seed(seed, "caption", place) % len(lines)]
