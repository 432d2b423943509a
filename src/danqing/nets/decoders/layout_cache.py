"""A cache of weights as a decoder multiplies by them, valid for as long as the weights stay the same."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

MOST_LAYOUTS = 2
"""Layouts cached for one module: with guidance and without. Each takes as much memory as the weights."""

T = TypeVar("T")


class HasParameters(Protocol):
    """A module, as far as the cache needs to know it."""

    def parameters(self) -> Iterator[nn.Parameter]: ...


_cache: WeakKeyDictionary[HasParameters, dict[Hashable, tuple["_Stamp", Any]]] = WeakKeyDictionary()


class _Stamp:
    """Detects whether parameters were replaced or written to.

    Autograd counts most writes, but neither those of fused optimisers nor those through `.data`: after these,
    the norms differ. Reading all weights once takes a hundredth of the time of sampling with them.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters  # held, so that no other tensor can get the same address
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
def cached_layout(module: HasParameters, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` returns for a module and a key.

    It is made again once the module's parameters change.
    """
    stamp, layouts = _Stamp(list(module.parameters())), _cache.setdefault(module, {})
    before, layout = layouts.pop(key, (None, None))
    if before != stamp:
        layout = make()
    layouts[key] = (stamp, layout)  # the latest comes last
    while len(layouts) > MOST_LAYOUTS:
        layouts.pop(next(iter(layouts)))
    return cast(T, layout)


def _writes(parameter: Tensor) -> int:
    """Return how often a tensor was written to, as far as autograd counts."""
    return 0 if parameter.is_inference() else parameter._version
