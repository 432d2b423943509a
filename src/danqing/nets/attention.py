"""Attention, and rotary positions on a grid."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.layers import RMS_EPSILON

ROTARY_BASE = 100.0
"""About the ratio of a head's fastest rotation to its slowest: grids are tens of places wide."""

LONGEST = 512
"""Most positions for which all attention weights, a square of them, are kept for the backward pass."""


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return softmax(q kᵀ) v; the scale is 1.

    q: queries `[n, heads, t, d]`.
    k, v: keys and values `[n, heads / g, s, d]`; g neighbouring queries share each.
    seen: bool `[n, t, s]`, which keys each query sees, at least one; None is causal attention.
    """
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[2] <= LONGEST:
        # Torch's own kernel makes a training step in bfloat16 slower by a tenth to a third.
        hidden = (
            q.new_ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1) if seen is None else ~seen[:, None]
        )
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        least = torch.zeros_like(hidden, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
        return torch.softmax(q @ k.transpose(2, 3) + least, dim=-1) @ v
    mask = None if seen is None else seen[:, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=True
    )


def attend_all(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return softmax(q kᵀ) v where each query sees all keys.

    The scale is 1.
    q: queries `[n, heads, t, d]`. k, v: keys and values `[n, heads, s, d]`.
    seen: bool `[n, t, s]`, which keys each query sees, at least one; None is all of them.
    """
    mask = None if seen is None else seen[:, None]
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= LONGEST:
        # Torch's own kernel makes a training step in bfloat16 slower by a tenth to a third.
        products = q @ k.transpose(2, 3)
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf)
        return torch.softmax(products, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def grid_rotations(row: Tensor, column: Tensor, head_width: int) -> Tensor:
    """Return the rotation of each position on a grid.

    row, column: of each position, `[t]`.
    Returns unit complex numbers as real pairs `[t, head width / 2, 2]`. Rotary positions (Su et al. 2021) in
    two dimensions (Heo et al. 2024, axial): half of the pairs of numbers in a head rotate with the row, half
    with the column.
    """
    quarter = head_width // 4
    speeds = ROTARY_BASE ** (-torch.arange(quarter) / quarter)
    angles = torch.cat([row[:, None] * speeds, column[:, None] * speeds], dim=1)  # [t, head width / 2]
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def as_rotations(pairs: Tensor) -> Tensor:
    """Return rotations as complex numbers.

    pairs: real `[..., d / 2, 2]`, as `grid_rotations` returns them. They stay real while a graph is exported,
    which has no complex numbers.
    """
    return pairs if torch.compiler.is_exporting() else torch.view_as_complex(pairs)


def scaled(rotations: Tensor, gains: Tensor) -> Tensor:
    """Return rotations, as of `as_rotations`, multiplied by real numbers."""
    return rotations * (gains if rotations.is_complex() else gains[..., None])


def rotate_unit(x: Tensor, rotations: Tensor) -> Tensor:
    """Scale vectors `[n, t, heads, d]` to length 1 and rotate them.

    rotations: `[t, heads, d / 2]`, by which pairs of neighbouring numbers are multiplied, as `as_rotations`
        returns them.
    Returns `[n, heads, t, d]`.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = F.rms_norm(exact, x.shape[-1:], eps=RMS_EPSILON) / math.sqrt(x.shape[-1])
    return rotate(unit, rotations).to(x.dtype)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn float32 vectors `[n, t, heads, d]` by rotations.

    Returns `[n, heads, t, d]`.
    rotations: `[t, heads, d / 2]`, by which pairs of neighbouring numbers are multiplied, as `as_rotations`
        returns them.
    """
    if not rotations.is_complex():
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        cosines, sines = rotations.unbind(-1)
        turned = torch.stack([first * cosines - second * sines, first * sines + second * cosines], -1)
        return turned.flatten(-2).transpose(1, 2)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))  # [n, t, heads, d / 2]
    rotated = torch.view_as_real(pairs * rotations).flatten(-2)  # [n, t, heads, d]
    return rotated.transpose(1, 2)
