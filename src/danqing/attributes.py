"""What a model knows of attributes, and whether a request fits: without PyTorch, for all processes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from danqing.errors import ConfigError
from danqing.names import match

Kind = Literal["number", "category", "vector"]
_SHOWN = 20
_LONGEST = 100


class Attribute(BaseModel):
    """One declared column.

    width: how many numbers it takes; a category takes one, its index in `categories`. known: the share of the
    images that have a value. mean, deviation, lowest, highest: of a number or vector, where it is known.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    width: int = 1
    categories: tuple[str, ...] = ()
    known: float = 0.0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()

    def in_words(self) -> str:
        """Return its name, its kind, its values, and how often it is known."""
        known = "" if self.known == 1 else f", known for {self.known:.0%}"
        if self.kind == "category":
            shown = ", ".join(self.categories[:_SHOWN])
            return f"{self.name} ({len(self.categories)} categories: {shown}{known})"
        if self.kind == "vector":
            return f"{self.name} (vector of {self.width}{known})"
        mean, deviation = self.mean[0], self.deviation[0]
        return f"{self.name} (number, {mean:.4g} ± {deviation:.4g}{known})"


class Example(BaseModel):
    """The attributes and the label of one image.

    values: in the order of the columns, None for a missing one. label: its index, -1 if there is none.
    """

    model_config = ConfigDict(frozen=True)

    label: int = -1
    values: tuple[float | None, ...]


def read(columns: Sequence[Attribute], requested: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """Return the requested numbers by the name of their column; a category is its index.

    requested: values by names, in any case and spacing; None is a value that is not known.
    Raises ConfigError for names and values that do not exist.
    """
    found: dict[str, list[float] | None] = {}
    for name, value in requested.items():
        meant = match(str(name), [column.name for column in columns])
        if meant is None:
            known = _some([column.name for column in columns])
            raise ConfigError(
                f"This model does not know the attribute {_quoted(name)}: it knows {known}.", "attributes"
            )
        if meant in found:
            raise ConfigError(f"The attribute {meant} is given twice: give it once.", "attributes")
        column = next(column for column in columns if column.name == meant)
        found[meant] = None if value is None else _numbers(column, value)
    return found


def _numbers(column: Attribute, value: Any) -> list[float]:
    if column.kind == "category":
        category = match(str(value), column.categories)
        if category is None:
            raise ConfigError(
                f"The attribute {column.name} cannot be {_quoted(value)}: choose one of "
                f"{_some(column.categories)}.",
                "attributes",
            )
        return [float(column.categories.index(category))]
    items = _items(value) if column.kind == "vector" else [value]
    try:
        numbers = [float(item) for item in items if not isinstance(item, bool)]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != column.width or not all(map(math.isfinite, numbers)):
        wanted = "a number" if column.kind == "number" else f"{column.width} numbers"
        example = ",".join(f"{mean:.4g}" for mean in column.mean)
        raise ConfigError(
            f"The attribute {column.name} is {wanted} and cannot be {_quoted(value)}: give for example "
            f"{example}.",
            "attributes",
        )
    return numbers


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return value.strip().removeprefix("[").removesuffix("]").split(",")
    return list(value) if hasattr(value, "__iter__") else [value]


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
