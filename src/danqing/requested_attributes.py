"""Attributes that are requested of a model: checked, and drawn where they are not given, without PyTorch."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing.attributes import Attribute, Example, read
from danqing.errors import ConfigError
from danqing.randomness import derived_seed

Attributes = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Values by the names of attributes, for all images or for each; None is a value that is not known."""

_MISMATCH = 1e6
"""Squared distance of two images with another label or category: more than any numbers have."""
_NEAR = 0.01
"""Squared distance, in standard deviations, within which examples are as near as the nearest."""


class HasAttributes(Protocol):
    """What a model says of its attributes, as in `families.configuration.FamilyConfig`."""

    @property
    def family(self) -> str: ...

    @property
    def attributes(self) -> tuple[Attribute, ...]: ...

    @property
    def attribute_examples(self) -> tuple[Example, ...]: ...


class OutsideTrainingWarning(UserWarning):
    """A requested number is outside of the range of the training images.

    The model may not know what such an image looks like.
    """


def chosen(
    config: HasAttributes,
    attributes: Attributes,
    label: NDArray[np.int64] | None,
    seeds: Sequence[int],
    *,
    draws: bool,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Return the attributes of one image per seed, and which are known.

    label: int64 `[n]`, or None.
    draws: whether each seed draws what is not requested, jointly, from the training images that are most like
        the request; otherwise it is missing.
    Returns values float32 `[n, sum of widths]`, 0 where one is missing, and which are known; None where the
    model reads no attributes.
    Raises ConfigError for names and values that the model does not know; warns of numbers out of range.
    """
    if not config.attributes:
        if attributes:
            raise ConfigError(f"This {config.family} was trained without attributes: leave them out.")
        return None
    rows = _one_per_image(attributes, len(seeds))
    parsed: dict[int, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}  # by identity: often one for all
    for row in rows:
        if id(row) not in parsed:
            parsed[id(row)] = _read(config.attributes, row)
    values = np.stack([parsed[id(row)][0] for row in rows])
    given = np.stack([parsed[id(row)][1] for row in rows])
    if draws and config.attribute_examples:
        labels = [-1] * len(rows) if label is None else label.tolist()
        draw = _Draw(config)
        for number, seed in enumerate(seeds):
            example = draw(values[number], given[number], labels[number], seed)
            values[number] = np.where(given[number], values[number], example)
    return np.nan_to_num(values).astype(np.float32), ~np.isnan(values)


def _one_per_image(attributes: Attributes, count: int) -> list[Mapping[str, Any]]:
    if attributes is None or isinstance(attributes, Mapping):
        return [attributes or {}] * count
    rows = list(attributes)
    if len(rows) != count or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(
            f"Give one table of attributes, or one per image: there are {len(rows)} for {count} images."
        )
    return rows


def _read(
    columns: Sequence[Attribute], requested: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The requested values in the order of the columns, NaN for others, and which were requested."""
    found, values, given = read(columns, requested), list[float](), list[bool]()
    for column in columns:
        numbers = found.get(column.name)
        if numbers is not None and column.kind != "category":
            _warn(column, numbers)
        values += [math.nan] * column.width if numbers is None else numbers
        given += [column.name in found] * column.width
    return np.array(values), np.array(given)


def _warn(column: Attribute, numbers: Sequence[float]) -> None:
    bounds = zip(numbers, column.lowest, column.highest, column.deviation, strict=False)
    for number, low, high, deviation in bounds:
        beyond = max(low - number, number - high)
        if beyond > 0:
            far = f" ({beyond / deviation:.1f} standard deviations further)" if deviation > 0 else ""
            warnings.warn(
                f"{column.name} {number:g} is outside of the training images, which have {low:g} to "
                f"{high:g}{far}: the model may not know what it looks like.",
                OutsideTrainingWarning,
                stacklevel=2,
            )


class _Draw:
    """Draws attributes jointly, from the examples that are most like what is requested."""

    def __init__(self, config: HasAttributes) -> None:
        examples = config.attribute_examples
        columns = [column for column in config.attributes for _ in range(column.width)]
        scales = [
            scale for column in config.attributes for scale in column.deviation or (1.0,) * column.width
        ]
        self._values = np.array([example.values for example in examples], np.float64)
        self._labels = np.array([example.label for example in examples])
        self._is_category = np.array([column.kind == "category" for column in columns])
        self._scale = np.array([scale if scale > 0 else 1.0 for scale in scales])

    def __call__(
        self, values: NDArray[np.float64], given: NDArray[np.bool_], label: int, seed: int
    ) -> NDArray[np.float64]:
        """The attributes of one example, NaN where one is missing.

        values, given: what is requested, and where. label: of the image, -1 for none.
        """
        wanted = given & ~np.isnan(values)
        apart = self._values[:, wanted] - values[wanted]
        squared = np.nan_to_num(np.square(apart / self._scale[wanted]), nan=1.0)
        is_category = self._is_category[wanted]
        squared[:, is_category] = np.where(apart[:, is_category] == 0, 0.0, _MISMATCH)
        distance = squared.sum(1) + np.where((self._labels != label) & (label >= 0), _MISMATCH, 0.0)
        near = np.flatnonzero(distance <= distance.min() + _NEAR)
        example: NDArray[np.float64] = self._values[near[derived_seed(seed, "attributes") % len(near)]]
        return example
