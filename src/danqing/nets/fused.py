"""Steps of a transformer whose gradients are written by hand.

On a processor most of a training step goes into moving memory, and half of it into the gradient of attention.
Each function here keeps only its inputs for the way back, and goes through them as few times as it can.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPSILON = 1e-6
"""Added to mean squares before they divide."""

SCORES = 2**20
"""Attention scores computed at once: as many as stay in a core's cache."""

QUERIES = 128
"""Queries of a causal block: keys that none of its queries may see are left out."""


def rms_normalised(x: Tensor) -> Tensor:
    """x / √(mean x² + ε) along the last axis, in the precision that a product takes it in.

    Zhang and Sennrich 2019, eq. 4, without the gain, which the weights after it can hold.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    normalised: Tensor = _RMSNormalised.apply(x, dtype)  # type: ignore[no-untyped-call]
    return normalised


def unit_turned(x: Tensor, turns: Tensor) -> Tensor:
    """Vectors `[n, t, heads, d]` at length 1, their pairs of neighbours multiplied by complex numbers
    `[t, heads, d / 2]`, as `[n, heads, t, d]`.
    """
    turned: Tensor = _UnitTurned.apply(x, turns)  # type: ignore[no-untyped-call]
    return turned


def swiglu(x: Tensor) -> Tensor:
    """silu(a) · b for a, b the halves of `[..., 2 h]` (Shazeer 2020, eq. 6)."""
    product: Tensor = _SwiGLU.apply(x)  # type: ignore[no-untyped-call]
    return product


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ) v for queries `[n, heads, t, d]`, keys and values `[n, heads / g, t, d]`.

    seen: bool `[n, t, t]`, which keys each query sees, one at least; causal where it is None. The scale is 1.
    Where a processor has to find gradients, they are found block by block, in a third of the time that torch
    takes; elsewhere torch's own kernel attends.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or v.requires_grad):
        attended: Tensor = _Attend.apply(q, k, v, seen)  # type: ignore[no-untyped-call]
        return attended
    mask = None if seen is None else seen[:, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=True
    )


def lengths(x: Tensor, epsilon: float) -> Tensor:
    """√(‖x‖² + ε²) along the last axis, which stays; float32 at least."""
    norms: Tensor = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    return norms.hypot_(norms.new_tensor(epsilon))


class _RMSNormalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        width = x.shape[-1]
        scale = math.sqrt(width) / lengths(x, math.sqrt(width * EPSILON))
        y = (x * scale).to(dtype)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True, dtype=scale.dtype)
        return torch.addcmul(grad, y, along, value=-1).to(scale.dtype).mul_(scale), None


class _UnitTurned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: Tensor) -> Tensor:
        scale = lengths(x, math.sqrt(x.shape[-1] * EPSILON)).reciprocal_()
        turned = torch.view_as_real(_pairs(x * scale) * turns).flatten(-2)
        ctx.save_for_backward(x, scale, turns)
        n, t, heads, d = x.shape
        return x.new_empty(n, heads, t, d).copy_(turned.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, turns = ctx.saved_tensors
        unit = x * scale
        pairs = _pairs(grad.transpose(1, 2).to(scale.dtype, memory_format=torch.contiguous_format))
        turns_grad = (pairs * _pairs(unit).conj_physical()).sum(0)
        back = torch.view_as_real(pairs * turns.conj_physical()).flatten(-2)
        along = (back * unit).sum(-1, keepdim=True)
        return back.addcmul_(unit, along, value=-1).mul_(scale).to(x.dtype), turns_grad


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        grads = torch.empty_like(x)
        gate_grad, up_grad = grads.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=up_grad)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        return grads


class _Attend(torch.autograd.Function):
    """Queries of one key head stand in one matrix, `[n · key heads, g · t, d]`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for images, rows, last, queries in _blocks(q, k, seen):
            keys, values = k[images, :, :last].flatten(0, 1), v[images, :, :last].flatten(0, 1)
            weights = _weights(queries, keys, rows, None if seen is None else seen[images, rows])
            out[images, :, rows] = torch.bmm(weights, values).view(out[images, :, rows].shape)
        ctx.save_for_backward(q, k, v, out)
        ctx.seen = seen
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (q, k, v, out), seen = ctx.saved_tensors, ctx.seen
        along = (grad * out).sum(-1, keepdim=True)  # Σ weights · their gradients, per query
        q_grad = torch.empty_like(q, memory_format=torch.contiguous_format)
        k_grad, v_grad = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for images, rows, last, queries in _blocks(q, k, seen):
            keys, values = k[images, :, :last].flatten(0, 1), v[images, :, :last].flatten(0, 1)
            weights = _weights(queries, keys, rows, None if seen is None else seen[images, rows])
            above = grad[images, :, rows].reshape(queries.shape)
            v_grad[images, :, :last] += torch.bmm(weights.transpose(1, 2), above).view_as(
                v_grad[images, :, :last]
            )
            scores = torch.bmm(above, values.transpose(1, 2))
            scores.sub_(along[images, :, rows].reshape(*queries.shape[:2], 1)).mul_(weights)
            q_grad[images, :, rows] = torch.bmm(scores, keys).view(q_grad[images, :, rows].shape)
            k_grad[images, :, :last] += torch.bmm(scores.transpose(1, 2), queries).view_as(
                k_grad[images, :, :last]
            )
        return q_grad, k_grad.to(k.dtype), v_grad.to(v.dtype), None


def _blocks(q: Tensor, k: Tensor, seen: Tensor | None) -> list[tuple[slice, slice, int, Tensor]]:
    """(images, query rows, how many keys these may see, their queries) of which the attention is made."""
    n, heads, t, d = q.shape
    step = math.ceil(t / max(1, round(t / QUERIES)))
    together = max(1, SCORES // (heads * step * t))
    blocks = []
    for first in range(0, n, together):
        for start in range(0, t, step):
            images, rows = slice(first, first + together), slice(start, min(start + step, t))
            last = rows.stop if seen is None else t
            queries = q[images, :, rows].reshape(-1, heads // k.shape[1] * (rows.stop - rows.start), d)
            blocks.append((images, rows, last, queries))
    return blocks


def _weights(queries: Tensor, keys: Tensor, rows: slice, seen: Tensor | None) -> Tensor:
    """How much each query minds each key, `[n · key heads, g · rows, keys]`; `seen` is `[n, rows, keys]`."""
    if seen is None:
        hidden = torch.full((rows.stop - rows.start, keys.shape[1]), -torch.inf, dtype=queries.dtype)
        hidden = hidden.triu(rows.start + 1).repeat(queries.shape[1] // len(hidden), 1)
        scores = torch.baddbmm(hidden, queries, keys.transpose(1, 2))
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2))
        n, count = seen.shape[:2]
        scores.view(n, -1, count, keys.shape[1]).masked_fill_(~seen[:, None], -torch.inf)
    return torch.softmax(scores, dim=-1)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
