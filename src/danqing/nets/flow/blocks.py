"""The pieces of which the networks for flow matching are built."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.attention import as_rotations, attend_all, grid_rotations, rotate, scaled
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.recomputing import Recomputes

EPSILON = 1e-5
TIME_FREQUENCIES = 64
PLACE_WAVES = 8
TIME_SCALE = 1000.0
"""Times in [0, 1] are multiplied by it before they meet sines made for steps 0 ... 1000 (Ho et al. 2020)."""


class TimeVector(nn.Module):
    """Turns the times t and s into a vector `[n, width]`.

    t is the time and s the target time, `[n]` each.
    t and s - t are embedded by sines and cosines (Vaswani et al. 2017) and a small network. What the model
    reads of a condition is added before the last layer, so that time and condition act together.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4 * TIME_FREQUENCIES, width)
        self.last = nn.Linear(width, width)

    @torch.no_grad()
    def forget_target(self) -> None:
        """Set the weights so that s does not matter.

        They give what they gave for s = t. A network that has seen s = t alone begins to learn other target
        times from there.
        """
        weight = self.first.weight
        at_zero, of_target = sines(weight.new_zeros(1))[0], weight[:, 2 * TIME_FREQUENCIES :]
        self.first.bias.add_(of_target @ at_zero)
        of_target.zero_()

    def forward(self, t: Tensor, s: Tensor, vector: Tensor | None) -> Tensor:
        h = self.first(torch.cat([sines(t), sines(s - t)], dim=1))
        if vector is not None:
            h = h + vector
        out: Tensor = F.silu(self.last(F.silu(h)))
        return out


def sines(t: Tensor) -> Tensor:
    """Embed times as sines and cosines of many frequencies.

    t: `[n]` in [-1, 1]. Returns float32 `[n, 2 · 64]`.
    """
    powers = torch.arange(TIME_FREQUENCIES, device=t.device) / (TIME_FREQUENCIES - 1)
    angles = TIME_SCALE * t[:, None].float() * (10 * TIME_SCALE) ** -powers
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def normalize(x: Tensor) -> Tensor:
    """Scale the last axis to mean 0 and variance 1.

    There are no gains (Ba et al. 2016).
    Torch computes this in one pass on a processor, forward and backward, and an RMSNorm in several.
    """
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return norm(x) · (1 + scale) + shift (Perez et al. 2018; Peebles and Xie 2023).

    x: `[n, ..., width]`; shift, scale: `[n, width]`.
    """
    between = (x.shape[0], *(1,) * (x.dim() - 2), -1)
    return torch.addcmul(shift.view(between), normalize(x), 1 + scale.view(between))


class AttentionLayer(nn.Module):
    """Attention of each token to all tokens of its image.

    If it reads a text, also to the tokens of the text.
    Queries and keys are normalized (Dehghani et al. 2023), times a learned gain for each head, and rotated by
    their place in the grid.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        nn.init.normal_(self.qkv.weight, std=width**-0.5)
        self.gain = nn.Parameter(torch.full((heads, 1), math.sqrt(self.head_width)))
        self.out = into_stream(width, width, layers)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Return what each of the tokens `[n, t, width]` reads."""
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_width)
        qk = normalize(qkv[:, :, :2].float()).flatten(2, 3)  # [n, t, 2 · heads, d]
        qk = rotate(qk, scaled(rotations, torch.cat([self.gain, self.gain.new_ones(self.heads, 1)])))
        q, k = (qk / math.sqrt(self.head_width)).to(x.dtype).chunk(2, dim=1)  # [n, heads, t, d] each
        heads = attend_all(q, k, qkv[:, :, 2].transpose(1, 2))
        out: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return out


class TextAttention(nn.Module):
    """Attention of the tokens of an image to those of its text.

    Its output starts at zero.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.gain = nn.Parameter(torch.full((heads, 1, 1), math.sqrt(self.head_width)))
        self.out = nn.Linear(width, width, bias=False)
        for linear in (self.q, self.kv):
            nn.init.normal_(linear.weight, std=width**-0.5)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """Return what tokens `[n, t, width]` read of a text.

        The text is `[n, length, width]`, read where it is `known`.
        """
        q = self.q(normalize(x)).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        k, v = self.kv(normalize(tokens)).view(*tokens.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = math.sqrt(self.head_width)
        q, k = self.gain * normalize(q) / scale, normalize(k) / scale
        heads = attend_all(q.to(v.dtype), k.to(v.dtype), v, known[:, None, :].expand(-1, x.shape[1], -1))
        out: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return out


class FlowBlock(Recomputes):
    """Attention and a feed-forward network, each added to x.

    There is also attention to a text. The feed-forward network is SwiGLU (Shazeer 2020).
    """

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        width = shape.width
        self.attention = AttentionLayer(width, shape.heads, shape.layers)
        self.text = TextAttention(width, shape.heads) if shape.reads_text else None
        hidden = -(-width * 8 // (3 * 32)) * 32  # SwiGLU has three matrices: 8/3 makes them cost as two of 4
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        nn.init.normal_(self.gate_up.weight, std=width**-0.5)
        self.down = into_stream(hidden, width, shape.layers)

    def forward(self, x: Tensor, modulation: Tensor, rotations: Tensor, given: Given) -> Tensor:
        """Return tokens `[n, t, width]`; modulation: `[n, 6, width]`."""
        shift, scale, gate, shift2, scale2, gate2 = modulation.to(x.dtype).unbind(1)
        x = x + (1 + gate)[:, None] * self.attention(modulate(x, shift, scale), rotations)
        if self.text is not None and given.tokens is not None and given.known is not None:
            x = x + self.text(x, given.tokens, given.known)
        a, b = self.gate_up(modulate(x, shift2, scale2)).chunk(2, dim=-1)
        out: Tensor = x + (1 + gate2)[:, None] * self.down(F.silu(a) * b)
        return out


class FlowBlocks(nn.Module):
    """A stack of blocks over a grid of tokens.

    Tokens are told their place in the image: rotations tell attention how far apart they are, and waves where
    they are, which aligned images, such as faces or clothes, are learned much faster with.
    One linear layer turns the conditioning vector into shifts, scales and gates for all blocks; each block
    adds its own constants (PixArt-α, Chen et al. 2023, section 2.3). Both start at zero.
    """

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        width = shape.width
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.constants = nn.Parameter(torch.zeros(shape.layers, 6, width))
        self.place = nn.Linear(4 * PLACE_WAVES, width, bias=False)
        self.blocks = nn.ModuleList(FlowBlock(shape) for _ in range(shape.layers))
        self.head_width = width // shape.heads

    def forward(self, grid: Tensor, vector: Tensor, given: Given) -> Tensor:
        """Turn a map `[n, width, rows, columns]` into one of the same shape."""
        n, width, rows, columns = grid.shape
        x = grid.permute(0, 2, 3, 1).reshape(n, rows * columns, width)
        x = x + self.place(place_waves(rows, columns).to(x.device))
        rotations = self._rotations(rows, columns, x.device)
        modulation = self.modulation(vector).view(n, 6, width)
        for block, constants in zip(self.blocks, self.constants, strict=True):
            x = block(x, modulation + constants, rotations, given)
        out: Tensor = x.view(n, rows, columns, width).permute(0, 3, 1, 2)
        return out

    def _rotations(self, rows: int, columns: int, device: torch.device) -> Tensor:
        row = torch.arange(rows)[:, None].expand(rows, columns).flatten()
        column = torch.arange(columns)[None].expand(rows, columns).flatten()
        pairs = grid_rotations(row, column, self.head_width)  # [t, d / 2, 2]
        return as_rotations(pairs.contiguous())[:, None].to(device)  # [t, 1, d / 2]


def place_waves(rows: int, columns: int) -> Tensor:
    """Describe each place of a grid by sines and cosines, float32 `[rows · columns, 4 · 8]`.

    They span the grid whatever its size, from half a wave to four waves.
    """
    half_waves = math.pi * torch.arange(1, PLACE_WAVES + 1)
    down = (torch.arange(rows)[:, None] + 0.5) / rows * half_waves  # [rows, waves]
    across = (torch.arange(columns)[:, None] + 0.5) / columns * half_waves  # [columns, waves]
    down, across = (torch.cat([angles.cos(), angles.sin()], 1) for angles in (down, across))
    grid = [down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)]
    return torch.cat(grid, dim=2).flatten(0, 1)


class ConvBlock(Recomputes):
    """A residual block of two 3×3 convolutions.

    It works on `[n, width, h, w]` and reads the time and the condition.
    """

    def __init__(self, width: int, vector: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(vector, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.modulation, self.second):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(vector).to(x.dtype).chunk(2, dim=1)
        h = self.first(F.silu(channel_norm(x)))
        h = modulate(h.permute(0, 2, 3, 1), shift, scale).permute(0, 3, 1, 2)
        out: Tensor = x + self.second(F.silu(h))
        return out


def channel_norm(x: Tensor) -> Tensor:
    """Scale the channels of each place to mean 0 and variance 1.

    x: `[n, c, h, w]`.
    """
    return normalize(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def into_stream(inputs: int, outputs: int, layers: int) -> nn.Linear:
    """Return a matrix whose output is added to the stream.

    It starts so small that all layers together add about as much as the stream has.
    """
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=(2 * layers * inputs) ** -0.5)
    return linear


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad with zeros to whole multiples of some pixels.

    x: `[n, c, h, w]`, padded at the bottom and the right.
    """
    height, width = x.shape[-2:]
    missing = (-height % multiple, -width % multiple)
    return F.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x


def beside(x: Tensor, given: Given) -> Tensor:
    """Append the images beside the input to the channels of `x`."""
    return x if given.channels is None else torch.cat([x, given.channels.to(x.dtype)], dim=1)
