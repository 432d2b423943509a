"""A model with all that is requested of it, which fills, varies or translates windows of its size."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from danqing import families
from danqing.editing.arrays import FILE_OPTIONS
from danqing.editing.contract import Values
from danqing.editing.tiles import NoiseField
from danqing.editing.windows import Size, Window
from danqing.errors import ConfigError
from danqing.families.abilities import Fills, Relabels, TakesNoise, Translates, Varies
from danqing.families.base import Condition
from danqing.image_files import Range
from danqing.model.chunks import in_chunks
from danqing.model.conditions import given_condition
from danqing.model.domain import warn_outside
from danqing.model.loading import load
from danqing.model.model import Model
from danqing.trust.declaration import Declaration

_ABILITIES: Mapping[str, tuple[type, str]] = {
    "fill": (Fills, "fill a part of an image"),
    "vary": (Varies, "vary an image"),
}
_ACTIVATIONS = 200
"""Numbers that a network holds for each value of an image at once, a generous estimate."""


@dataclass(frozen=True)
class Request:
    """What all results show.

    source_label: what all images show that are turned from one label into another.
    """

    label: str | int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    attributes: Mapping[str, Any] | None = None
    source_label: str | int | None = None


@dataclass(frozen=True, eq=False)
class WindowModel:
    """A model that fills, varies or translates, and how.

    options: of the model for this verb; those that are left out have their defaults.
    Raises ConfigError if the family cannot do this, for unknown options, and for a request that the model
    does not read.
    """

    model: Model
    verb: Literal["fill", "vary", "translate"]
    request: Request
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.verb == "translate":
            self.model.check_translates(self.request.source_label)
        else:
            protocol, ability = _ABILITIES[self.verb]
            if not isinstance(self.model.family, protocol):
                raise ConfigError(families.cannot(self.model.family.config, ability, protocol))
        self.model.check_options(self.options, "relabel" if self._source else self.verb)
        _ = self._condition

    @property
    def shape(self) -> Size:
        """Return the (width, height) of the windows that the model sees."""
        config = self.model.family.config
        return config.source_size if self.verb == "translate" else (config.width, config.height)

    @property
    def channels(self) -> int:
        """Return the channels of the images that the model sees."""
        config = self.model.family.config
        return (config.source_channels if self.verb == "translate" else 0) or config.channels

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Return what the results depend on, as plain values."""
        request = self.request
        return {
            "model": self.model.family.digest(),
            "label": request.label,
            "source_label": request.source_label,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "attributes": None if request.attributes is None else dict(request.attributes),
            "options": dict(self.options),
        }

    def declaration(self, action: str) -> Declaration:
        """Return what the results declare; action: the command that makes them."""
        return self.model.declaration(action, self.request.prompt or "")

    @functools.cached_property
    def _condition(self) -> Condition:
        request = self.request
        return given_condition(
            self.model.family.config,
            1,
            request.label,
            request.prompt,
            request.negative_prompt,
            request.attributes,
        )

    @functools.cached_property
    def _source(self) -> Condition | None:
        """Return what the images show, if they are turned from one label into another."""
        request = self.request
        if request.source_label is None:
            return None
        return given_condition(
            self.model.family.config, 1, request.source_label, request.prompt, attributes=request.attributes
        )

    def peak_bytes(self, windows: int, size: Size | None = None) -> int:
        """Estimate the memory that computing some windows takes, in bytes.

        size: their (width, height); by default, the model's shape.
        """
        rows, (width, height) = min(windows, self.model.family.chunk), size or self.shape
        return rows * _ACTIVATIONS * width * height * self.channels * 4

    def value_range(self, values: Values, *, are_levels: bool) -> Range | None:
        """Return the levels that are black and white to the model.

        None is the whole range of their type.
        are_levels: whether values are those of a file, and not scaled from other numbers.
        """
        return self.model.value_range if are_levels and values.dtype == np.uint16 else None

    def fill(self, images: Tensor, masks: Tensor, seed: int, windows: Sequence[Window]) -> Tensor:
        """Compute filled windows, floats `[n, c, h, w]`.

        images: `[n, c, h, w]`, of the model's shape. masks: `[n, 1, h, w]`, 1 where to fill.
        windows: where these images are in the whole one.
        """
        family, device = self.model.family, self.model.device
        assert isinstance(family, Fills)
        warn_outside(self.model.domain, images, masks, are_parts=True)

        def fill(rows: list[int], **given: Any) -> Tensor:
            return family.fill(images[rows].to(device), masks[rows].to(device), **given)

        return self._run(fill, seed, windows)

    def vary(self, images: Tensor, strength: float, seed: int, windows: Sequence[Window]) -> Tensor:
        """Compute variations of windows, as `fill`."""
        family, device = self.model.family, self.model.device
        assert isinstance(family, Varies)
        warn_outside(self.model.domain, images, are_parts=True)

        def vary(rows: list[int], **given: Any) -> Tensor:
            return family.vary(images[rows].to(device), strength=strength, **given)

        return self._run(vary, seed, windows)

    def translate(self, images: Tensor, seed: int, windows: Sequence[Window] | None = None) -> Tensor:
        """Translate windows, as `fill`.

        images: `[n, c, h, w]`, of any size where the family computes in tiles; `windows` is then None.
        """
        family, device, source = self.model.family, self.model.device, self._source
        if windows is not None:  # a tile of another size looks unlike an image
            warn_outside(self.model.domain, images, are_parts=True)

        def translate(rows: list[int], condition: Condition, **given: Any) -> Tensor:
            if source is not None:
                assert isinstance(family, Relabels)
                shown = source[[0] * len(rows)].to(device)
                return family.relabel(images[rows].to(device), shown, condition, **given)
            assert isinstance(family, Translates)
            return family.translate(images[rows].to(device), condition, **given)

        return self._run(translate, seed, windows or [Window(0, 0, *self.shape)] * len(images))

    def _run(self, edit: Callable[..., Tensor], seed: int, windows: Sequence[Window]) -> Tensor:
        """Compute windows in chunks.

        The size of a chunk follows from the number of windows of this image, so that no other image has an
        effect on rounding.
        """
        family, device, count = self.model.family, self.model.device, len(windows)
        field = NoiseField(seed, family.noise_shape[0]) if isinstance(family, TakesNoise) else None

        def compute(rows: list[int]) -> Tensor:
            given: dict[str, Any] = {}
            if field is not None and isinstance(family, TakesNoise):
                noise = [field.under(windows[row], family.noise_shape) for row in rows]
                given["noise"] = torch.stack(noise).to(device)
            condition = self._condition[[0] * len(rows)].to(device)
            return edit(rows, condition=condition, seeds=[seed] * len(rows), **given, **self.options)

        return in_chunks(compute, count, min(count, family.chunk)).float()


def opened(model: Model | str | Path) -> Model:
    """Return a model, loaded if its folder or id is given."""
    return model if isinstance(model, Model) else load(model)


def are_levels(images: object) -> bool:
    """Return whether images have levels from 0 to 255 or 65,535.

    Other arrays are scaled to them.
    """
    return not isinstance(images, np.ndarray) or images.dtype in (np.uint8, np.uint16)


def divided(options: Mapping[str, Any], model: Model | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into those of `editing.arrays.apply` and those of a model.

    model: what chooses the marks where the options do not.
    """
    for_files = {name: value for name, value in options.items() if name in FILE_OPTIONS}
    if model is not None:
        for_files.setdefault("marks", model.marks)
    return for_files, {name: value for name, value in options.items() if name not in FILE_OPTIONS}
