"""Statistics of vectors, and a projection by which distances in all directions count alike."""

from collections.abc import Sequence

import torch
from torch import Tensor

from danqing.nets.gathering import Gathers

_SMALLEST = 1e-3
"""Variances are raised by this share of the largest one, which keeps noise small."""
_NOTHING = 1e-8
"""The variance of a part up to which it is taken for rounding, and is not raised to that of other parts."""


class Whitening(Gathers):
    """Projects vectors onto their main directions, where each counts alike.

    The covariance is a moving average over the vectors of `observe`. It is stored instead of the projection,
    which follows from it.

    parts: vectors consist of parts of these lengths, which count alike whatever their scales.
    outputs: how many directions are kept, at most: those of the largest variance.
    power: how alike the directions count. 0 keeps their variances, 1 makes all variances 1.
    window: about how many vectors the average is over.
    """

    mean: Tensor
    covariance: Tensor
    observed: Tensor

    def __init__(self, parts: tuple[int, ...], outputs: int, power: float, window: int) -> None:
        super().__init__()
        self.parts, self.power, self.window = parts, power, window
        size = sum(parts)
        self.outputs = min(outputs, size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("covariance", torch.eye(size))
        self.register_buffer("observed", torch.zeros(()))
        self._made: tuple[Tensor, int, Tensor] | None = None

    @torch.no_grad()
    def observe(self, vectors: Tensor) -> None:
        """Add vectors `[n, inputs]` to the average."""
        vectors = vectors.float()
        with torch.autocast(vectors.device.type, enabled=False):
            self._include(vectors)

    def _include(self, vectors: Tensor) -> None:
        if self.grain is not None:
            away = vectors - self.mean
            self.seen = [away.new_tensor([len(vectors)]), away.mean(0), away.T @ away / len(vectors)]
            return
        share = len(vectors) / (self.observed + len(vectors))
        self.observed.add_(len(vectors)).clamp_(max=self.window)
        away = vectors - self.mean
        shift = share * away.mean(0)
        self.mean.add_(shift)
        spread = away.T @ (vectors - self.mean) / len(vectors)  # Welford 1962, for a batch
        self.covariance.lerp_((spread + spread.T) / 2, share)

    @torch.no_grad()
    def settle(self, seen: Sequence[Tensor], grains: int) -> None:
        """Add a batch to the average.

        seen: the number of vectors of a grain, and the mean of x - m and of (x - m)(x - m)ᵀ, where m is the
            average before the batch.
        """
        count, away, products = grains * seen[0][0], seen[1], seen[2]
        share = count / (self.observed + count)
        self.observed.add_(count).clamp_(max=self.window)
        shift = share * away
        self.mean.add_(shift)
        spread = products - torch.outer(away, shift)  # as in `_include`, by its mean over all vectors
        self.covariance.lerp_((spread + spread.T) / 2, share)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors `[n, inputs]`; returns float32 `[n, outputs]`."""
        return (vectors.float() - self.mean) @ self.projection()

    def projection(self) -> Tensor:
        """Return the projection, `[inputs, outputs]`.

        It is computed when the covariance has changed.
        """
        covariance, version = self.covariance, self.covariance._version
        if self._made is None or self._made[0] is not covariance or self._made[1] != version:
            with torch.inference_mode(False), torch.no_grad():  # gradients may pass through it later
                self._made = (covariance, version, self._project().to(covariance))
        return self._made[2]

    def _project(self) -> Tensor:
        covariance = self.covariance.double().cpu()
        scales = torch.cat(
            [
                part.diagonal().sum().clamp_min(_NOTHING).rsqrt().expand(len(part))
                for part in self._blocks(covariance)
            ]
        )
        variances, directions = torch.linalg.eigh(scales[:, None] * covariance * scales)
        variances, directions = variances[-self.outputs :].clamp_min(0), directions[:, -self.outputs :]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * largest.sign()  # an eigenvector has no sign of its own
        weights = (variances + _SMALLEST * variances.max().clamp_min(_NOTHING)) ** (-self.power / 2)
        projection: Tensor = scales[:, None] * directions * weights
        return projection.flip(1)

    def _blocks(self, covariance: Tensor) -> list[Tensor]:
        """The square blocks of the parts on the diagonal."""
        found, start = [], 0
        for size in self.parts:
            found.append(covariance[start : start + size, start : start + size])
            start += size
        return found
