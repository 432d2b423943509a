"""A vision transformer for recognition: from images to a map of features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.attention import as_rotations, attend_all, grid_rotations, rotate_unit
from danqing.nets.layers import RMS_EPSILON
from danqing.nets.recomputing import Recomputes

HEAD_WIDTH = 32
"""Features of each attention head."""
SHARPNESS = 10.0
"""The factor of the logits of attention, whose queries and keys have length 1, when training begins."""


class VisionTransformer(nn.Module):
    """Patches as tokens, and blocks of attention and two-layer networks (Dosovitskiy et al. 2021).

    A convolution over overlapping patches replaces their linear projection (Xiao et al. 2021). Positions are
    rotations by row and column. It takes images of any size.

    channels: of the images. features: of a token, a multiple of `HEAD_WIDTH`. layers: blocks. patch: pixels
    between tokens.
    """

    def __init__(self, channels: int, features: int, layers: int, patch: int) -> None:
        super().__init__()
        self.outputs = features
        self.stem = nn.Sequential(
            nn.Conv2d(channels, features, 2 * patch - 1, patch, patch - 1), nn.BatchNorm2d(features)
        )
        self.blocks = nn.ModuleList(_Block(features) for _ in range(layers))
        self.norm = nn.RMSNorm(features, eps=RMS_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `[n, c, h, w]` into a map `[n, features, rows, columns]`."""
        x = self.stem(images)
        rows, columns = x.shape[2:]
        places = torch.arange(rows * columns, device=x.device)
        rotations = as_rotations(grid_rotations(places // columns, places % columns, HEAD_WIDTH))
        tokens = x.flatten(2).transpose(1, 2)  # [n, t, features]
        for block in self.blocks:
            tokens = block(tokens, rotations[:, None])
        tokens = self.norm(tokens)
        maps: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return maps


class _Block(Recomputes):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.before_attention = nn.RMSNorm(features, eps=RMS_EPSILON)
        self.to_qkv = nn.Linear(features, 3 * features, bias=False)
        self.sharpness = nn.Parameter(torch.full((features // HEAD_WIDTH, 1, 1), SHARPNESS))
        self.from_heads = nn.Linear(features, features, bias=False)
        self.before_mlp = nn.RMSNorm(features, eps=RMS_EPSILON)
        self.widen = nn.Linear(features, 4 * features)
        self.narrow = nn.Linear(4 * features, features)
        nn.init.zeros_(self.from_heads.weight)  # a block begins as the identity
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """x: tokens `[n, t, features]`. rotations: complex `[t, 1, HEAD_WIDTH / 2]`."""
        n, t, features = x.shape
        qkv = self.to_qkv(self.before_attention(x)).view(n, t, 3, -1, HEAD_WIDTH)
        q, k = (rotate_unit(qkv[:, :, part], rotations) for part in (0, 1))  # [n, heads, t, d]
        mixed = attend_all(q * self.sharpness.to(q.dtype), k, qkv[:, :, 2].transpose(1, 2))
        x = x + self.from_heads(mixed.transpose(1, 2).reshape(n, t, features))
        hidden = F.gelu(self.widen(self.before_mlp(x)))
        result: Tensor = x + self.narrow(hidden)
        return result
