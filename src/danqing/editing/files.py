"""What an image file is besides its pixels, and files with new pixels that keep it."""

from dataclasses import dataclass

from danqing.editing.contract import Values


@dataclass(frozen=True)
class FileStyle:
    """What a file is besides its pixels.

    format: in which it is written, as Pillow calls it. suffix: what is added to its name because its own
    format cannot be written, otherwise "". notes: sentences about what cannot be kept.
    """

    format: str
    suffix: str = ""
    notes: tuple[str, ...] = ()


def read(content: bytes) -> tuple[Values, FileStyle]:
    """Read an image upright, at its own depth and in its own colour space, and all that surrounds it.

    content: of the file.
    Returns uint8 or uint16 `[h, w, c]` and the style. Palettes become RGB or RGBA.
    Raises DataError for a file that cannot be read, has several images, or has values that are not levels.
    """
    raise NotImplementedError


def write(values: Values, style: FileStyle, *, strip: bool = False) -> bytes:
    """Write an image as a file of a style.

    strip: whether metadata is left out; a colour profile stays, since the colours depend on it.
    Raises DataError if the format cannot hold the image.
    """
    raise NotImplementedError


def in_format(style: FileStyle, name: str) -> FileStyle:
    """Convert a style to the format that the suffix of a file name states.

    Raises ConfigError for a format that cannot be written.
    """
    raise NotImplementedError


def suffix_for(content: bytes) -> str:
    """Return what is added to the name of a file because its format cannot be written, otherwise ""."""
    raise NotImplementedError


def format_of(name: str) -> str:
    """Return the format that the suffix of a file name states, as Pillow calls it.

    Raises ConfigError for a format that cannot be written.
    """
    raise NotImplementedError
