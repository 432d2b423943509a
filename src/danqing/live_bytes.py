"""Counts the memory of tensors while they live."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are created within a block.

    They count as long as they live.

    trace: the sum after each operation. What kernels use inside is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace: list[int] = []
        self._now = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {_storage_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage_key(tensor) not in given:  # not a view of its input
                storage = tensor.untyped_storage()
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        self.trace.append(self._now)
        return result

    def _change(self, size: int) -> None:
        self._now += size


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
