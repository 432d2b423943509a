"""Restores images of any size with a model that learned from damaged copies, or from pairs."""

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


def enhancement(model: WindowModel, **options: Any) -> Translation:
    """Return the edit that restores images.

    options: of `Translation`.
    Raises ConfigError for a model whose results have another size or other channels than their sources.
    """
    edit = Translation(model, verb="enhance", keep_channels=True, **options)
    config = edit.model.model.family.config
    if edit.scale > 1:
        raise ConfigError("This model makes images larger: use danqing upscale.")
    if config.source_channels not in (0, config.channels):
        raise ConfigError("This model turns grey into colour: use danqing translate.")
    return edit


def enhance(
    model: Model | str | Path,
    images: Images | Array | Source,
    *,
    out: str | Path | None = None,
    strength: float = 1.0,
    seed: int = 0,
    tile: int = 0,
    overlap: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Restore each image, at any size.

    A model that learned grey images restores each colour alone. Arrays of other numbers than levels, such as
    those of DICOM and NIfTI readers, are scaled as the images of training were.

    strength: from 0, which keeps the image, to 1, which takes what the model makes of it.
    tile, overlap: the side of the tiles in pixels, and how far they overlap; 0 and None choose.
    Other arguments and errors are those of `editing.translate.translate`.
    """
    for_files, own = divided(options)
    edit = enhancement(
        WindowModel(opened(model), "translate", Request(), own),
        strength=strength,
        tile=tile,
        overlap=overlap,
        are_levels=are_levels(images),
    )
    return run(edit, images, out, seed, for_files)
