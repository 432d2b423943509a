"""Restores images of any size: by a model that learned from damaged copies or pairs, or from each alone."""

import dataclasses
from pathlib import Path
from typing import Any

from danqing.editing.arrays import Array, apply
from danqing.editing.batch import BatchResult
from danqing.editing.denoise import ZeroShotDenoise
from danqing.editing.inputs import Source
from danqing.editing.translate import Translation, run
from danqing.editing.window_model import Request, WindowModel, are_levels, divided, opened
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.model.model import Model

ZERO_SHOT = "zero-shot"
"""Instead of a model: a network learns to denoise each image from that image alone."""


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


def zero_shot(**options: Any) -> ZeroShotDenoise:
    """Return the edit that denoises without a model.

    options: of `ZeroShotDenoise`. Raises ConfigError for others.
    """
    known = [field.name for field in dataclasses.fields(ZeroShotDenoise)]
    if unknown := [name for name in options if name not in known]:
        raise ConfigError(
            f"Denoising without a model has no option {', '.join(unknown)}: it has {', '.join(known)}."
        )
    return ZeroShotDenoise(**options)


def enhance(
    model: Model | str | Path | None,
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

    model: None or "zero-shot" denoises without a model. The options are then `noise` and `steps` of
        `editing.denoise.ZeroShotDenoise`, and `device`.
    strength: from 0, which keeps the image, to 1, which takes what the model makes of it.
    tile, overlap: the side of the tiles in pixels, and how far they overlap; 0 and None choose.
    Other arguments and errors are those of `editing.translate.translate`.
    """
    if model is None or model == ZERO_SHOT:
        for_files, own = divided(options)
        if overlap is not None:
            own["overlap"] = overlap
        return apply(zero_shot(strength=strength, tile=tile, **own), images, out, seed=seed, **for_files)
    used = opened(model)
    for_files, own = divided(options, used)
    edit = enhancement(
        WindowModel(used, "translate", Request(), own),
        strength=strength,
        tile=tile,
        overlap=overlap,
        are_levels=are_levels(images),
    )
    return run(edit, images, out, seed, for_files)
