"""The few operations that arithmetic of tensors and of NumPy's arrays does not share by name.

What is written with them runs on both, so that an exported model samples without PyTorch by the same code.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A tensor of PyTorch or an array of NumPy; all arrays in one call are of one kind."""


def like(values: Sequence[float], x: Array) -> Array:
    """Return numbers as an array of the kind, format and device of another."""
    return np.asarray(values, x.dtype) if isinstance(x, np.ndarray) else x.new_tensor(values)


def where(condition: Sequence[bool], chosen: Array, other: Array) -> Array:
    """Return rows of one array where a condition is true, else rows of another.

    condition: one value for each row.
    """
    if isinstance(chosen, np.ndarray):
        return np.where(per_row(np.asarray(condition), chosen), chosen, other)
    torch = sys.modules["torch"]  # it has made the tensors
    flags = torch.tensor(condition, device=chosen.device)
    return torch.where(per_row(flags, chosen), chosen, other)


def maximum(first: Array, second: Array) -> Array:
    """Return the larger of each two numbers."""
    return np.maximum(first, second) if isinstance(first, np.ndarray) else first.maximum(second)


def per_row(values: Array, x: Array) -> Array:
    """Reshape values `[n]` so that each multiplies one row of x `[n, ...]`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def rows_of(x: Array) -> NDArray[np.float64]:
    """Return the numbers of each row, float64 `[n, ...]` as `[n, k]`."""
    flat = x.reshape(len(x), -1)
    return flat.astype(np.float64) if isinstance(flat, np.ndarray) else flat.double().cpu().numpy()
