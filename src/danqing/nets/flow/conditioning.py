"""From labels, texts and images to the tensors that the networks for flow matching read."""

import torch
from torch import Tensor, nn

from danqing.nets.attention import attend_all
from danqing.nets.flow.blocks import into_stream, normalize
from danqing.nets.layers import LabelVectors


class LabelVector(nn.Module):
    """Labels `[n]` to vectors `[n, width]`; -1 stands for no label."""

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.table = LabelVectors(labels, width)

    def forward(self, label: Tensor, absent: Tensor) -> Tensor:
        """Return the vectors of labels.

        absent: bool `[n]`, the images to treat as if they had no label.
        """
        out: Tensor = self.table(torch.where(absent, -1, label))
        return out


class TextTokens(nn.Module):
    """What a text encoder gives to tokens `[n, 1 + length, width]`, and their mean `[n, width]`.

    The first token stands for the text as a whole; it alone is left of an empty text. Two layers of attention
    let words change each other's meaning.
    """

    def __init__(
        self, vocabulary: int, hidden: int, length: int, width: int, heads: int, layers: int = 2
    ) -> None:
        """vocabulary: of token ids. hidden: of the hidden states of the encoder; 0 where it gives ids."""
        super().__init__()
        self.embed: nn.Module = nn.Linear(hidden, width) if hidden else nn.Embedding(vocabulary, width)
        if isinstance(self.embed, nn.Embedding):
            nn.init.normal_(self.embed.weight, std=0.3)
        self.place = nn.Parameter(0.3 * torch.randn(1 + length, width))
        self.layers = nn.ModuleList(_TextLayer(width, heads, layers) for _ in range(layers))
        self.pool = nn.Linear(width, width)

    def forward(self, encoded: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, where there are any, and a vector of the text.

        The second is bool `[n, 1 + length]`.
        encoded: token ids int64 `[n, length]`, 0 beyond the end, or hidden states `[n, length, hidden]`.
        absent: bool `[n]`, the images to treat as if they had no text.
        """
        there = encoded != 0 if encoded.dim() == 2 else encoded.abs().sum(2) > 0
        known = torch.cat([torch.ones_like(there[:, :1]), there & ~absent[:, None]], dim=1)
        x = self.embed(encoded) + self.place[1:]
        x = torch.cat([self.place[:1].expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        x = x * known[..., None]
        for layer in self.layers:
            x = layer(x, known)
        vector: Tensor = self.pool(normalize(x[:, 0]))
        return x, known, vector


class _TextLayer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = into_stream(width, width, layers)
        self.up = nn.Linear(width, 2 * width)
        self.down = into_stream(2 * width, width, layers)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(normalize(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = (width // self.heads) ** -0.5
        heads = attend_all(q * scale, k, v, known[:, None, :].expand(-1, length, -1))
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(nn.functional.silu(self.up(normalize(x))))
        return out
