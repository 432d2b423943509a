"""Attributes: numbers, categories or vectors that describe an image besides its label and captions."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.attributes import Attribute as Attribute
from danqing.attributes import Example as Example
from danqing.attributes import Kind
from danqing.data import tables


def tabulate(
    names: Sequence[str], rows: Iterable[Sequence[Any]]
) -> tuple[NDArray[np.float32], tuple[Attribute, ...]]:
    """Convert the cells of declared columns to numbers `[n, sum of widths]`.

    Missing values are NaN.

    A column of numbers is numeric, a column of equally long lists of numbers is a vector, and any other
    column holds categories.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    parts, attributes = [], []
    for name, cells in zip(names, columns, strict=True):
        values, attribute = _column(name, cells)
        parts.append(values)
        attributes.append(attribute)
    table = np.concatenate(parts, axis=1) if parts else np.zeros((0, 0), np.float32)
    return table.astype(np.float32), tuple(attributes)


def _column(name: str, cells: Sequence[Any]) -> tuple[NDArray[np.float64], Attribute]:
    numbers = [_numbers(cell) for cell in cells]
    told = [found for found, cell in zip(numbers, cells, strict=True) if not _is_missing(_parsed(cell))]
    widths = {None if found is None else len(found) for found in told}
    if len(widths) == 1 and None not in widths:
        (width,) = widths
        assert width is not None
        blank = [math.nan] * width
        kept = [found if found is not None and len(found) == width else blank for found in numbers]
        values = np.array(kept, np.float64).reshape(len(cells), width)
        kind: Kind = "vector" if any(isinstance(_parsed(cell), list) for cell in cells) else "number"
        known = ~np.isnan(values).any(axis=1)
        mean, deviation, lowest, highest = (
            tuple(map(float, of(values[known], axis=0))) if known.any() else ()
            for of in (np.mean, np.std, np.min, np.max)
        )
        share = float(known.mean()) if len(cells) else 0.0
        return values, Attribute(
            name=name,
            kind=kind,
            width=width,
            known=share,
            mean=mean,
            deviation=deviation,
            lowest=lowest,
            highest=highest,
        )
    texts = tables.label_texts(cells)
    categories = tuple(sorted({text for text in texts if text is not None}))
    places = {text: float(place) for place, text in enumerate(categories)}
    values = np.array([places.get(text or "", math.nan) for text in texts]).reshape(-1, 1)
    share = float((~np.isnan(values)).mean()) if len(cells) else 0.0
    return values, Attribute(name=name, kind="category", categories=categories, known=share)


def _is_missing(cell: Any) -> bool:
    return tables.is_missing(cell) or (isinstance(cell, list | tuple) and not cell)


def _numbers(cell: Any) -> list[float] | None:
    """Return the finite numbers in a cell, or None if it holds anything else."""
    value = _parsed(cell)
    items = value if isinstance(value, list | tuple) else [value]
    try:
        numbers = [float(one) for one in items if not isinstance(one, bool)]
    except (TypeError, ValueError):
        return None
    whole = len(numbers) == len(items) and bool(numbers) and all(map(math.isfinite, numbers))
    return numbers if whole else None


def _parsed(cell: Any) -> Any:
    """Return a cell, or the list in its text, as a spreadsheet writes `[1, 2]`."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def in_columns(columns: Sequence[Attribute], rows: Sequence[Sequence[Any]]) -> NDArray[np.float32]:
    """Convert cells to numbers as columns that are known describe them, `[n, sum of widths]`.

    Missing values, and those of another kind or category, are NaN.
    """
    table = np.full((len(rows), sum(column.width for column in columns)), math.nan, np.float32)
    start = 0
    for number, column in enumerate(columns):
        cells, end = [row[number] for row in rows], start + column.width
        if column.kind == "category":
            places = {name: place for place, name in enumerate(column.categories)}
            table[:, start] = [places.get(text or "", math.nan) for text in tables.label_texts(cells)]
        else:
            for row, found in zip(table, map(_numbers, cells), strict=True):
                if found is not None and len(found) == column.width:
                    row[start:end] = found
        start = end
    return table
