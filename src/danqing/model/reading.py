"""How a recognizer reads images: the options of its training, without PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.errors import ConfigError
from danqing.image_files.levels import Range
from danqing.images import Images, conform, eight_bits


def reading(facts: Mapping[str, Any], size: tuple[int, int], channels: int) -> dict[str, Any]:
    """Return the options of `image_files.decode` that a model was trained with.

    facts: what is known of its training. size: (width, height) of its images.
    """
    prepared = _prepared(facts)
    options = {"alpha": "flatten" if channels in (1, 3) else "keep"}
    told = {name: prepared[name] for name in ("background", "fit") if name in prepared}
    return {**options, **told, "size": size, "channels": channels, "range": value_range(facts)}


def value_range(facts: Mapping[str, Any]) -> Range | None:
    """Return the (low, high) that are black and white.

    None where the training images had no more than 8 bits.
    """
    bounds = _prepared(facts).get("range")
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))


def seen_size(options: Mapping[str, Any], natural: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) at which an image has the scale of training.

    options: as `reading` returns them. natural: the (width, height) of the image.
    """
    fit, size = options.get("fit", "crop"), options["size"]
    if fit == "stretch":
        return int(size[0]), int(size[1])
    ratio = min if fit == "crop" else max
    unit = ratio(own / side for own, side in zip(natural, size, strict=True))
    width, height = (max(1, round(own / unit)) for own in natural)
    return width, height


def as_read(images: Images | NDArray[Any], options: Mapping[str, Any]) -> NDArray[Any]:
    """Bring images to the size and the channels of a model, `[n, h, w, c]`.

    images: uint8 or uint16 `[n, h, w, c]` of any size. options: as `reading` returns them.
    Images that fit already keep their bits. Raises ConfigError for an array that does not hold images.
    """
    array = images.array if isinstance(images, Images) else np.asarray(images)
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 4 or not 1 <= array.shape[3] <= 4:
        raise ConfigError(
            f"An array of shape {list(array.shape)} and type {array.dtype} is not images: give uint8 or "
            "uint16 [n, h, w, c]."
        )
    width, height = options["size"]
    if array.shape[1:] != (height, width, options["channels"]):
        own = {name: value for name, value in options.items() if name != "range"}
        array = np.stack([conform(one, **own) for one in eight_bits(array)])
    return np.ascontiguousarray(array)


def _prepared(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    prepared = facts.get("data", {}).get("prepared", {})
    return prepared if isinstance(prepared, Mapping) else {}
