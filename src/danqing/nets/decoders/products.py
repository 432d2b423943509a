"""Matrix products with weights that are laid out once, as the processor multiplies them fastest."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.precision import Precision


def product(
    weight: Tensor, rows: int, precision: Precision, gain: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Return a function that multiplies `[n, inputs]` by weights `[outputs, inputs]`.

    rows: how many rows n usually are, for which the layout is chosen; any number works.
    precision: the number format of the product.
    gain: `[inputs]`, of the RMSNorm before the product. The function then takes unit vectors, because
        RMSNorm(x) = √inputs · x / ‖x‖.
    """
    if gain is not None:
        weight = weight * (gain * math.sqrt(len(gain)))
    if precision == "float32":
        matrix = weight.t().contiguous()
        return lambda x: torch.mm(x, matrix)
    weight = weight.bfloat16()
    if not packs(weight):
        return lambda x: F.linear(x.bfloat16(), weight)
    # torch.mm would rearrange the weights at every call, which takes as long as multiplying by them.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: cast(Tensor, multiply(x.bfloat16(), packed, None, "none", [], ""))


def gated(weight: Tensor, rows: int, precision: Precision, gain: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that computes silu(gate) · up of unit vectors.

    weight: `[2 · outputs, inputs]`; its first half gives the gate, its second half the rest.
    rows, precision, gain: as of `product`.
    The function takes `[n, inputs]`.
    """
    if precision == "float32" or not packs(weight):
        both = product(weight, rows, precision, gain)

        def apart(x: Tensor) -> Tensor:
            gate, up = both(x).chunk(2, dim=-1)
            return F.silu(gate).mul_(up)

        return apart
    halves = (weight * (gain * math.sqrt(len(gain)))).bfloat16().chunk(2)
    gates, ups = (torch.ops.mkldnn._reorder_linear_weight(half.contiguous(), rows) for half in halves)
    multiply = torch.ops.mkldnn._linear_pointwise

    def fused(x: Tensor) -> Tensor:
        x = x.bfloat16()
        gate = multiply.default(x, gates, None, "swish", [], "")
        return cast(Tensor, multiply.binary(x, gate, ups, None, "mul"))

    return fused


def packs(weight: Tensor) -> bool:
    """Return whether the processor multiplies by packed bfloat16 weights."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def unit(x: Tensor, epsilon: Tensor) -> Tensor:
    """Return x / √(‖x‖² + ε²) along the last axis.

    The result has the precision of ε.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=epsilon.dtype)
    return x / length.hypot_(epsilon)
