"""Networks without weights: their names, shapes and types, for which nothing is allocated or drawn."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = {Tensor.normal_, init.normal_, init.kaiming_normal_}
_SCALES = {Tensor.mul, Tensor.div}


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Build networks in a block without weights, on "meta"."""
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Leaves out how weights usually get their first values.

    On "meta" there are none, and PyTorch would import its compiler for these functions, which takes as long
    as importing PyTorch itself.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        if func is torch.eye:
            return torch.empty(args[0], args[-1], **kwargs)  # of n, or of n and m
        if func in _SCALES and args[0].is_floating_point() and not isinstance(args[1], Tensor):
            return torch.empty(args[0].shape, dtype=args[0].dtype)
        return func(*args, **kwargs)
