"""Convolutions that wrap around: what leaves an image at one edge enters it at the opposite one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WrappedConvolutions(TorchFunctionMode):
    """Replaces the zero padding of every `conv2d` by a circular one.

    x, y: along the width, along the height.
    It acts while it is entered, on the thread that enters it. The networks need no change, and a layer that
    is added later is covered.
    """

    def __init__(self, *, x: bool, y: bool) -> None:
        super().__init__()
        self._x, self._y = x, y

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return self._conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        *others: Any,
        **named: Any,
    ) -> Tensor:
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        down, across = rows if self._y else 0, columns if self._x else 0
        if down or across:
            input = F.pad(input, (across, across, down, down), mode="circular")
        return torch.conv2d(input, weight, bias, stride, (rows - down, columns - across), *others, **named)
