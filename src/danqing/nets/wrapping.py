"""Networks that wrap around: what leaves an image at one edge enters it at the opposite one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_Pair = int | tuple[int, int]


class Wrappable(nn.Module):
    """A network from vectors to images that may wrap around.

    It can if it has convolutions alone.
    multiple: the sides of such images are multiples of this; 0 if the network cannot wrap around.
    """

    multiple: int = 0


class WrappedConvolutions(TorchFunctionMode):
    """Replaces the padding of maps by what is at the opposite edge.

    That is the zero padding of convolutions, transposed ones too, and the repeated edge of bilinear
    enlargement.
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
        named = kwargs or {}
        if func is torch.conv2d:
            return self._conv2d(*args, **named)
        if func is torch.conv_transpose2d:
            return self._conv_transpose2d(*args, **named)
        if func is F.interpolate and named.get("mode") == "bilinear" and named.get("scale_factor"):
            return self._enlarged(*args, **named)
        return func(*args, **named)

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: _Pair = 1,
        padding: _Pair = 0,
        *others: Any,
        **named: Any,
    ) -> Tensor:
        rows, columns = _pair(padding)
        down, across = rows if self._y else 0, columns if self._x else 0
        padded = self._padded(input, down, across)
        return torch.conv2d(padded, weight, bias, stride, (rows - down, columns - across), *others, **named)

    def _conv_transpose2d(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Pair = 1, *others: Any
    ) -> Tensor:
        strides = _pair(stride)
        # A pixel of the output reads the pixels of the input at most this far away.
        reach = (math.ceil(kernel / step) for kernel, step in zip(weight.shape[-2:], strides, strict=True))
        down, across = (far if wraps else 0 for far, wraps in zip(reach, (self._y, self._x), strict=True))
        grown = torch.conv_transpose2d(self._padded(input, down, across), weight, bias, stride, *others)
        return _without_edges(grown, down * strides[0], across * strides[1])

    def _enlarged(self, input: Tensor, **named: Any) -> Tensor:
        factor = int(named["scale_factor"])
        down, across = int(self._y), int(self._x)
        grown = F.interpolate(self._padded(input, down, across), **named)
        return _without_edges(grown, down * factor, across * factor)

    def _padded(self, input: Tensor, down: int, across: int) -> Tensor:
        if not (down or across):
            return input
        return F.pad(input, (across, across, down, down), mode="circular")


def _pair(sides: _Pair) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _without_edges(x: Tensor, down: int, across: int) -> Tensor:
    return x[..., down : x.shape[-2] - down, across : x.shape[-1] - across]
