"""What a transformer knows of a whole image: a network from images to features, for models that recognize."""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.families.abilities import Tokenizes
from danqing.families.transformer import Transformer, TransformerLearner


class CodeFeatures(nn.Module):
    """What a transformer knows of images: its tokenizer and its network.

    It shares their weights with the model, and reads no condition. The last block and the head are left
    out, since they turn what is known into what comes next.

    feature_channels: of the map of features.
    """

    def __init__(self, model: TransformerLearner) -> None:
        super().__init__()
        self.order, self.feature_channels = model.config.order, model.config.features
        self.tokenizer, self.prefix, self.net = model.tokenizer, model.prefix, _without_end(model.net)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Turn images `[n, c, h, w]` into a map `[n, width, rows, columns]`.

        In masked order each place sees the codes of all others (Li et al. 2023, "MAGE"), in raster order
        those before it (Chen et al. 2020, "Generative Pretraining from Pixels"). No gradient reaches the
        images, because codes are whole numbers.
        """
        assert isinstance(self.tokenizer, Tokenizes)
        with torch.no_grad():
            codes = self.tokenizer.tokenize(images).long().flatten(1)
        prefix = self.prefix.nothing(len(images)) + self.net.prefix
        vectors = self._after_raster(prefix, codes) if self.order == "raster" else self._of_all(prefix, codes)
        shape = self.net.shape
        places = vectors.unflatten(1, (shape.rows, shape.columns, shape.depth)).mean(3)
        return F.rms_norm(places.float(), places.shape[-1:]).permute(0, 3, 1, 2)

    def _of_all(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Return the stream at each code, which sees itself and all others, `[n, N, width]`."""
        net, count = self.net, prefix.shape[1]
        x = torch.cat([prefix, net.embed(codes, 0, 0)], dim=1)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        seen[:count, count:] = False  # as in training
        rotations = torch.view_as_complex(net.rotations).expand(2, -1, -1)
        for block in net.blocks:
            x = block(x, rotations, seen.expand(len(x), -1, -1))
        return x[:, count:]

    def _after_raster(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Return the stream that writes each code, which sees those before it, `[n, N, width]`."""
        net = self.net
        x = torch.cat([prefix, net.embed(codes[:, :-1], 0, 1)], dim=1)
        rotations = net.raster_rotations()[:, : x.shape[1]]
        for block in net.blocks:
            x = block(x, rotations)
        return x[:, prefix.shape[1] - 1 :]


def _without_end(net: Transformer) -> Transformer:
    """Return a network without its last block and its head.

    It shares all other weights.
    """
    short = copy.copy(net)
    short._modules = dict(net._modules)
    short.blocks = net.blocks[: max(1, len(net.blocks) - 1)]
    del short.head
    return short
