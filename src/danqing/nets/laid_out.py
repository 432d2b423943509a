"""Weights as a decoder multiplies by them, kept between calls for as long as they stay the same."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

MOST = 2
"""Layouts that are kept of a module: with guidance and without. Each takes as much memory as the weights."""

T = TypeVar("T")
_kept: WeakKeyDictionary[nn.Module, dict[Hashable, tuple["_Stamp", Any]]] = WeakKeyDictionary()


class _Stamp:
    """By which to tell whether parameters were replaced or written to.

    Autograd counts most writes, but neither those of fused optimisers nor those through `.data`: after these,
    norms differ. To read all weights once takes a hundredth of what it takes to paint with them.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters  # held, so that no other can come to stand at the same address
        self._places = [(each.data_ptr(), _writes(each)) for each in parameters]
        self._norms = torch.stack(torch._foreach_norm(parameters)).tolist()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Stamp)
            and len(self._parameters) == len(other._parameters)
            and all(a is b for a, b in zip(self._parameters, other._parameters, strict=True))
            and (self._places, self._norms) == (other._places, other._norms)
        )

    __hash__ = None  # type: ignore[assignment]


@torch.no_grad()
def laid_out(module: nn.Module, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` makes of a module's parameters for `key`, made again once they have changed."""
    stamp, layouts = _Stamp(list(module.parameters())), _kept.setdefault(module, {})
    before, layout = layouts.pop(key, (None, None))
    if before != stamp:
        layout = make()
    layouts[key] = (stamp, layout)  # the latest comes last
    while len(layouts) > MOST:
        layouts.pop(next(iter(layouts)))
    return cast(T, layout)


def _writes(parameter: Tensor) -> int:
    """How often a tensor was written to, as far as autograd counts."""
    return 0 if parameter.is_inference() else parameter._version
