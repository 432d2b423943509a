"""Masks of images of any size: seen at the scale of training or as they are, and in tiles."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.editing.inputs import Inputs
from danqing.editing.tiles import run_in_tiles, tiles_of
from danqing.errors import ConfigError, DataError
from danqing.families import cannot
from danqing.families.abilities import IsConvolutional
from danqing.image_files import DeepPixels, decode, inspect
from danqing.images import Pixels, conform, eight_bits, to_float
from danqing.learners.abilities import Segments
from danqing.model.reading import seen_size
from danqing.model.recognizer import Recognizer
from danqing.progress import ProgressCallback

Scale = Literal["model", "own"]
"""model: the model sees an image at the scale of those that it learned from, whatever its size.

own: it sees the image as it is, which suits a model that learned from pieces of such images.
"""
TILE = 1024
"""The side of a tile in pixels."""


class MaskOfFile(NamedTuple):
    """What a model finds in one file.

    mask: the class of each pixel, `[h, w]`. image: the image in RGB of 8 bits, if it was wanted. failure: why
    the file cannot be read; there is then no mask.
    """

    name: str
    mask: NDArray[np.uint8] | None = None
    image: Pixels | None = None
    failure: str = ""


def segment(
    recognizer: Recognizer, pixels: Pixels | DeepPixels, *, scale: Scale = "model", tile: int = TILE
) -> NDArray[np.uint8]:
    """Return the class of each pixel of an image of any size, `[h, w]`.

    pixels: uint8 or uint16 `[h, w, c]`. scale: at which the model sees it. tile: the side of the pieces in
    which a large image is computed; where twice the receptive radius of the model is at most half of it, the
    mask is the same as in one piece.
    Raises ConfigError if the model does not segment.
    """
    check_segments(recognizer)
    height, width = pixels.shape[:2]
    size = seen_size(recognizer.reading(), (width, height)) if scale == "model" else (width, height)
    reading = recognizer.reading()
    options = {name: reading[name] for name in ("channels", "alpha", "background") if name in reading}
    if size != (width, height) or pixels.shape[2] != options["channels"]:
        pixels = conform(eight_bits(pixels), size=size, fit="stretch", **options)
    return _mask(recognizer, pixels, (width, height), tile)


def segment_content(recognizer: Recognizer, content: bytes, *, scale: Scale = "model") -> NDArray[np.uint8]:
    """Return the class of each pixel of an encoded image, `[h, w]`, at its own size.

    scale: as of `segment`. Raises DataError, and ConfigError if the model does not segment.
    """
    check_segments(recognizer)
    return _mask_of_file(recognizer, content, scale, with_image=False)[0]


def segment_files(
    recognizer: Recognizer,
    found: Inputs,
    *,
    scale: Scale = "model",
    with_images: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Iterator[MaskOfFile]:
    """Yield the mask of each image file, at the image's own size.

    scale: as of `segment`. Raises ConfigError if the model does not segment.
    """
    check_segments(recognizer)
    for number, name in enumerate(found.names):
        if on_progress is not None:
            on_progress(number, len(found.names), "Segmenting")
        try:
            content = found.read(name)
            mask, image = _mask_of_file(recognizer, content, scale, with_image=with_images)
        except DataError as error:
            yield MaskOfFile(name, failure=str(error))
        else:
            yield MaskOfFile(name, mask, image)


def checked_scale(name: str) -> Scale:
    """Return a scale by its name; raises ConfigError."""
    if name not in get_args(Scale):
        raise ConfigError(f"There is no scale {name!r}: choose {' or '.join(get_args(Scale))}.")
    return cast(Scale, name)


def check_segments(recognizer: Recognizer) -> None:
    """Raise ConfigError if a model does not segment images."""
    if not isinstance(recognizer.learner, Segments):
        raise ConfigError(cannot(recognizer.learner.config, "segment images", Segments))


def _mask_of_file(
    recognizer: Recognizer, content: bytes, scale: Scale, *, with_image: bool
) -> tuple[NDArray[np.uint8], Pixels | None]:
    """The mask of an encoded image at its own size, and the image of 8 bits if it is wanted."""
    natural = inspect(content).size
    reading = recognizer.reading()
    reading |= {"size": seen_size(reading, natural) if scale == "model" else None, "fit": "stretch"}
    mask = _mask(recognizer, decode(content, depth=16, **reading), natural, TILE)
    if not with_image:
        return mask, None
    return mask, decode(content, channels=3, range=reading["range"])


@torch.no_grad()
def _mask(
    recognizer: Recognizer, pixels: Pixels | DeepPixels, size: tuple[int, int], tile: int
) -> NDArray[np.uint8]:
    """The mask of an image as the model sees it, brought to a (width, height)."""
    learner = recognizer.learner
    assert isinstance(learner, Segments)
    images = to_float(torch.from_numpy(np.array(pixels))[None]).to(recognizer.device)
    options = {"tile": max(images.shape[2:]), "overlap": 0}
    if isinstance(learner, IsConvolutional):
        multiple = learner.stride
        side = max(tile // multiple, 2) * multiple
        options = {"tile": side, "overlap": min(2 * learner.receptive_radius, side // 2)}
        options["multiple"] = multiple
    if (images.shape[3], images.shape[2]) == size:
        mask = torch.empty(images.shape[2:], dtype=torch.uint8)
        for place, logits in tiles_of(learner.mask_logits, images, **options):
            mask[place.slices] = logits[0].argmax(0).byte().cpu()
        return mask.numpy()
    return _enlarged_argmax(run_in_tiles(learner.mask_logits, images, **options)[0], size)


def _enlarged_argmax(logits: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Interpolate logits `[k, h, w]` to a (width, height) and return the largest; one class at a time."""
    best, mask = None, torch.zeros(size[1], size[0], dtype=torch.uint8, device=logits.device)
    for number, values in enumerate(logits):
        larger = F.interpolate(values[None, None], size[::-1], mode="bilinear", align_corners=False)[0, 0]
        if best is None:
            best = larger
            continue
        mask[larger > best] = number
        best = torch.maximum(best, larger)
    return mask.cpu().numpy()
