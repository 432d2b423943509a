"""The Inception-v3 of the Fréchet Inception Distance: TensorFlow's graph of 2015-12-05, not the usual one.

It differs from the published architecture (Szegedy et al. 2016) in three ways that every FID depends on:
average pooling does not count the padding, the last block pools by the maximum, and the classifier has 1,008
classes and no bias where it is used for a score.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from danqing.data.download import Published
from danqing.errors import DataError, EvaluationError
from danqing.evaluation.networks.batched import StagedNetwork
from danqing.evaluation.resize import Resizer, in_words, prepared
from danqing.precision import Precision
from danqing.pretrained import fingerprint
from danqing.pretrained.checkpoint import read_tensors

NAME = "inception"
FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PUBLISHED = Published(
    "inception",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
    {FILE: WEIGHTS_SHA256},
    (Path(torch.hub.get_dir()) / "checkpoints",),
)
SIDE = 299


class Inception(StagedNetwork):
    """2,048 pooled features; "FID" is the Fréchet distance of these alone.

    With other weights than the published ones, which `weights` may name in either format of PyTorch or as
    safetensors, the network is called by their sha256: what it measures is not FID.
    """

    batch_size = 8

    def __init__(
        self,
        weights: Path | None = None,
        *,
        resizer: Resizer = "legacy",
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        weights = weights or published_weights()
        sha256 = fingerprint.of_file(weights)
        net = InceptionV3()
        try:
            net.load_state_dict(read_tensors(weights))
        except RuntimeError as error:
            raise EvaluationError(
                f"{weights} does not hold the weights of the FID Inception: name a copy of {FILE}."
            ) from error
        self.net = net.eval().fold().requires_grad_(False)
        super().__init__(
            self.net,
            name=NAME if sha256 == WEIGHTS_SHA256 else f"{NAME}-{sha256[:8]}",
            sha256=sha256,
            resizer=in_words((SIDE, SIDE), resizer),
            normalization="(x - 128) / 128",
            dimensions=2048,
            device=device,
            precision=precision,
        )
        self._resizer: Resizer = resizer

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of each class, `[n, 1008]`.

        features: `[n, 2048]`. The bias of `fc` is left out.
        """
        with torch.no_grad():
            return F.linear(features.to(self.device), self.net.fc.weight).softmax(1).cpu()

    def _inputs(self, images: Tensor) -> Tensor:
        pixels = prepared(images, (SIDE, SIDE), self._resizer)
        return ((pixels - 128) / 128).contiguous(memory_format=torch.channels_last)


class _Convolution(nn.Module):
    """A convolution, batch normalisation and a rectifier; where it is padded, the size stays."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padded: bool = True,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(x)))

    def fold(self) -> None:
        """Fold the normalisation into the convolution, for inference."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.conv.weight = nn.Parameter(self.conv.weight.contiguous(memory_format=torch.channels_last))
            self.bn = nn.Identity()


class _BlockA(nn.Module):
    """Branches of 1x1, 5x5 and twice 3x3, at 35 pixels a side."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 64, 1)
        self.branch5x5_1 = _Convolution(inputs, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3)
        self.branch_pool = _Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average(x)),
        )
        return torch.cat(branches, 1)


class _BlockB(nn.Module):
    """From 35 to 17 pixels a side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(inputs, 384, 3, stride=2, padded=False)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            F.max_pool2d(x, 3, 2),
        )
        return torch.cat(branches, 1)


class _BlockC(nn.Module):
    """7x7 convolutions as rows and columns, at 17 pixels a side."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 192, 1)
        self.branch7x7_1 = _Convolution(inputs, inner, 1)
        self.branch7x7_2 = _Convolution(inner, inner, (1, 7))
        self.branch7x7_3 = _Convolution(inner, 192, (7, 1))
        self.branch7x7dbl_1 = _Convolution(inputs, inner, 1)
        self.branch7x7dbl_2 = _Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_3 = _Convolution(inner, inner, (1, 7))
        self.branch7x7dbl_4 = _Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_5 = _Convolution(inner, 192, (1, 7))
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = (
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(_average(x)),
        )
        return torch.cat(branches, 1)


class _BlockD(nn.Module):
    """From 17 to 8 pixels a side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(inputs, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2, padded=False)
        self.branch7x7x3_1 = _Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))),
            F.max_pool2d(x, 3, 2),
        )
        return torch.cat(branches, 1)


class _BlockE(nn.Module):
    """Branches that end in a row and a column side by side, at 8 pixels a side."""

    def __init__(self, inputs: int, *, max_pooling: bool) -> None:
        super().__init__()
        self.max_pooling = max_pooling
        self.branch1x1 = _Convolution(inputs, 320, 1)
        self.branch3x3_1 = _Convolution(inputs, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = _Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1))
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pooling else _average(x)
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        )
        return torch.cat(branches, 1)


class InceptionV3(nn.Module):
    """The network itself, under the names of the published weights.

    Takes RGB float32 `[n, 3, 299, 299]` in [-1, 1), gives pooled features `[n, 2048]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, padded=False)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, max_pooling=False)
        self.Mixed_7c = _BlockE(2048, max_pooling=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1].float().mean((2, 3))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the activations before each reduction, and the last ones.

        They have 64 to 2,048 channels.
        """
        first = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        second = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(first, 3, 2)))
        third = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(second, 3, 2))))
        fourth = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(third)))
        fourth = self.Mixed_6e(self.Mixed_6d(fourth))
        fifth = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(fourth)))
        return [first, second, third, fourth, fifth]

    def fold(self) -> "InceptionV3":
        """Fold every normalisation into its convolution.

        The function stays the same and takes three quarters of the time.
        """
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.fold()
        return self


def published_weights() -> Path:
    """Return the published file: cached, left by pytorch-fid, or fetched now.

    Raises EvaluationError.
    """
    try:
        path = PUBLISHED.folder() / FILE
    except DataError as error:
        raise EvaluationError(
            f"The weights of the FID Inception are missing: {error} Or name the file with inception:FILE, or "
            "choose efficientnet-lite0."
        ) from error
    if fingerprint.of_file(path) != WEIGHTS_SHA256:
        raise EvaluationError(
            f"{path} is not the file that was published: delete it, and it is fetched again."
        )
    return path


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
