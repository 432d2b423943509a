"""Enlarges images of any size with a model that learned from small copies of large images."""

from pathlib import Path
from typing import Any

from danqing.editing.arrays import Array
from danqing.editing.batch import BatchResult
from danqing.editing.inputs import Source
from danqing.editing.translate import Translation, run
from danqing.editing.window_model import Request, WindowModel, are_levels, divided, opened
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.model.model import Model


def upscaling(model: WindowModel, **options: Any) -> Translation:
    """Return the edit that enlarges images.

    options: of `Translation`.
    Raises ConfigError for a model that does not enlarge.
    """
    edit = Translation(model, verb="upscale", keep_channels=True, **options)
    if edit.scale == 1:
        raise ConfigError(
            "This model does not make images larger: train one by danqing train DATA --task upscale."
        )
    return edit


def upscale(
    model: Model | str | Path,
    images: Images | Array | Source,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    tile: int = 0,
    overlap: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Enlarge each image by the scale of the model, at any size.

    If the model learned from plain averages (`degrade = "shrink4"`), the average of each square of the result
    is exactly the pixel that it came from, unless the image is transparent. Alpha is enlarged by Lanczos.
    tile, overlap: the side of the tiles in pixels of the image, and how far they overlap; 0 and None choose.
    Other arguments and errors are those of `editing.translate.translate`.
    """
    used = opened(model)
    for_files, own = divided(options, used)
    edit = upscaling(
        WindowModel(used, "translate", Request(), own),
        tile=tile,
        overlap=overlap,
        are_levels=are_levels(images),
    )
    return run(edit, images, out, seed, for_files)
