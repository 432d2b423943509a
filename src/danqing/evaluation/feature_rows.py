"""Feature vectors tile by tile, so that no metric holds more of them than it works on."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Rows

_NUMBERS = 1 << 23
_MOST, _LEAST = 4096, 64


def tile_rows(dimensions: int) -> int:
    """Return how many rows to process at once: about 8 million numbers."""
    return max(_LEAST, min(_MOST, _NUMBERS // max(1, dimensions)))


def tiles(rows: Rows, size: int | None = None, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield tiles from row `first` on, each with its first row's number.

    Raises EvaluationError where a number is not finite.
    """
    count, dimensions = rows.shape
    size = size or tile_rows(dimensions)
    for start in range(first, count, size):
        tile = rows[start : min(start + size, count)]
        # a sum of finite numbers is finite, or so nearly too large that it is worth a look at each
        if not bool(tile.sum().isfinite()) and not bool(tile.isfinite().all()):
            raise EvaluationError(
                "The features hold numbers that are not finite: check the images, the feature network and "
                "its precision."
            )
        yield start, tile


def check_comparable(generated: Rows, reference: Rows, least: int = 2) -> None:
    """Raise EvaluationError unless two sets of rows can be compared.

    Both need at least `least` rows, and the same number of dimensions.
    """
    if generated.shape[1] != reference.shape[1]:
        raise EvaluationError(
            f"Features of {generated.shape[1]} and of {reference.shape[1]} dimensions cannot be compared: "
            "take both from one network."
        )
    fewest = min(generated.shape[0], reference.shape[0])
    if fewest < least:
        raise EvaluationError(
            f"This score needs at least {least} images on either side, and one side has {fewest}: add images."
        )


class Selected:
    """The rows at `indices` of others, in ascending order."""

    def __init__(self, rows: Rows, indices: NDArray[np.int64]) -> None:
        self._rows = rows
        self._indices = np.sort(indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._indices), self._rows.shape[1]

    def __getitem__(self, rows: slice, /) -> Tensor:
        wanted = self._indices[rows]
        size = tile_rows(self._rows.shape[1])
        parts = [self._rows[0:0]]
        for number in np.unique(wanted // size).tolist():
            start = number * size
            inside = wanted[(wanted >= start) & (wanted < start + size)]
            first, last = int(inside[0]), int(inside[-1])
            parts.append(self._rows[first : last + 1][torch.from_numpy(inside - first)])
        return torch.cat(parts)


class Mapped:
    """Rows to which a function is applied, tile by tile.

    function: from `[n, d]` to `[n, dimensions]`.
    """

    def __init__(self, rows: Rows, function: Callable[[Tensor], Tensor], dimensions: int) -> None:
        self._rows = rows
        self._function = function
        self.shape: tuple[int, ...] = (rows.shape[0], dimensions)

    def __getitem__(self, rows: slice, /) -> Tensor:
        return self._function(self._rows[rows])
