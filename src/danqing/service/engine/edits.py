"""Edits of whole pictures, for the worker: the same as those of the commands and of Python."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from danqing import image_files
from danqing.editing import files
from danqing.editing.contract import Edit, Values
from danqing.editing.enhance import enhancement
from danqing.editing.fill import Fill
from danqing.editing.masks import Masks
from danqing.editing.translate import Translation
from danqing.editing.upscale import upscaling
from danqing.editing.vary import Vary
from danqing.editing.window_model import Request, WindowModel
from danqing.image_files import Range
from danqing.model.model import Model
from danqing.model.verb_options import STRENGTH
from danqing.options import Verb
from danqing.service.engine.orders import SOURCE_LABEL, WholeImage, unpack


def build(model: Model, verb: Verb, request: Request, options: Mapping[str, Any], whole: WholeImage) -> Edit:
    """Return the edit of an order.

    Raises ConfigError for options and requests that do not suit the model.
    """
    own = dict(options)
    if verb == "relabel":
        shown = dataclasses.replace(request, source_label=own.pop(SOURCE_LABEL))
        return Translation(WindowModel(model, "translate", shown, own), whole=not whole.is_fine)
    if verb == "fill":
        assert whole.mask is not None
        where = unpack(whole.mask, whole.size)
        masks = Masks(source=where, expand=whole.expand, feather=whole.feather)
        return Fill(WindowModel(model, "fill", request, own), masks)
    if verb == "vary":
        strength = own.pop("strength", STRENGTH)
        return Vary(WindowModel(model, "vary", request, own), strength)
    assert verb == "translate"
    if model.family.config.source_scale > 1:
        return upscaling(WindowModel(model, "translate", request, own))
    if is_enhancer(model):
        strength = own.pop("strength", 1.0)
        return enhancement(WindowModel(model, "translate", request, own), strength=strength)
    return Translation(WindowModel(model, "translate", request, own), whole=not whole.is_fine)


def is_enhancer(model: Model) -> bool:
    """Return whether a model restores pictures, by a strength, as `danqing enhance` does."""
    return bool(model.facts.get("task") == "enhance" and model.family.config.source_scale == 1)


def values_of(whole: WholeImage, bounds: Range | None) -> Values:
    """Decode a picture `[h, w, c]`.

    bounds: the values that become black and white where more than 8 bits become 8.
    Raises DataError.
    """
    if whole.keeps_file:
        return files.read(whole.content)[0]
    return image_files.decode(whole.content, alpha="keep", range=bounds)
