"""Priors over latents: invertible maps, per condition, between latents and standard normal noise.

Each prior gives the exact log-density of latents, so that the bound on the likelihood stays exact, and maps
the noise of a seed to latents when sampling. `to_noise` and `from_noise` are inverse to each other.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition
from danqing.nets.attributes import AttributeEmbedding
from danqing.nets.autoencoders import ConditionBias


def standard_normal_log_prob(noise: Tensor) -> Tensor:
    """Compute the log-density of the standard normal in nats, `[n]`.

    noise: `[n, d]`.
    """
    return -0.5 * (noise.square().sum(1) + noise.shape[1] * math.log(2 * math.pi))


class NormalPrior(nn.Module):
    """The standard normal, or a learned diagonal Gaussian per label and attributes."""

    def __init__(self, latents: int, labels: int, attributes: tuple[Attribute, ...] = ()) -> None:
        super().__init__()
        self.statistics_of_label = nn.Parameter(torch.zeros(labels, 2 * latents)) if labels else None
        self.attributes = AttributeEmbedding(attributes, 2 * latents) if attributes else None
        if self.attributes is not None:  # starts at the standard normal
            nn.init.zeros_(self.attributes.last.weight)
            nn.init.zeros_(self.attributes.last.bias)

    def statistics(self, latents: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of the prior.

        Each has the shape of `latents`, `[n, d]`.
        """
        statistics = latents.new_zeros(latents.shape[0], 2 * latents.shape[1])
        if self.statistics_of_label is not None and condition is not None and condition.label is not None:
            statistics = F.embedding(condition.label, self.statistics_of_label)
        if self.attributes is not None:
            statistics = statistics + self.attributes.of(condition, latents.shape[0]).to(statistics.dtype)
        mean, log_scale = statistics.chunk(2, dim=1)
        return mean, log_scale

    def to_noise(self, latents: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Map latents `[n, d]` to noise.

        Returns noise `[n, d]` and log |d noise / d latents| `[n]`.
        """
        mean, log_scale = self.statistics(latents, condition)
        return (latents - mean) * torch.exp(-log_scale), -log_scale.sum(1)

    def from_noise(self, noise: Tensor, condition: Condition | None) -> Tensor:
        """Map noise `[n, d]` to latents `[n, d]`."""
        mean, log_scale = self.statistics(noise, condition)
        return mean + noise * torch.exp(log_scale)

    def log_prob(self, latents: Tensor, condition: Condition | None) -> Tensor:
        """Compute the log-density of latents `[n, d]` in nats, `[n]`."""
        noise, log_det = self.to_noise(latents, condition)
        return standard_normal_log_prob(noise) + log_det


class Coupling(nn.Module):
    """An affine coupling: half of the latents shift and scale the others.

    Real NVP, Dinh et al. 2017, eq. 7.
    """

    def __init__(self, latents: int, labels: int, attributes: tuple[Attribute, ...], hidden: int) -> None:
        super().__init__()
        self.kept = latents // 2
        self.first = nn.Linear(self.kept, hidden)
        self.label = ConditionBias(labels, attributes, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2 * (latents - self.kept))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def shift_and_log_scale(self, kept: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        h = self.label(self.first(kept), condition)
        h = self.last(F.silu(self.second(F.silu(h))))
        shift, log_scale = h.to(kept.dtype).chunk(2, dim=1)
        return shift, 2 * torch.tanh(log_scale / 2)  # bounded: one coupling scales by e^2 at most

    def forward(self, latents: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        kept, changed = latents[:, : self.kept], latents[:, self.kept :]
        shift, log_scale = self.shift_and_log_scale(kept, condition)
        changed = (changed - shift) * torch.exp(-log_scale)
        # The halves change places, so that the next coupling changes what this one kept.
        return torch.cat([changed, kept], 1), -log_scale.sum(1)

    def inverse(self, latents: Tensor, condition: Condition | None) -> Tensor:
        size = latents.shape[1] - self.kept
        changed, kept = latents[:, :size], latents[:, size:]
        shift, log_scale = self.shift_and_log_scale(kept, condition)
        return torch.cat([kept, changed * torch.exp(log_scale) + shift], 1)


class FlowPrior(nn.Module):
    """A normalising flow of affine couplings over a Gaussian per condition.

    It follows whatever shape the posteriors have.
    """

    def __init__(
        self,
        latents: int,
        labels: int,
        attributes: tuple[Attribute, ...] = (),
        *,
        couplings: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.base = NormalPrior(latents, labels, attributes)
        self.couplings = nn.ModuleList(
            Coupling(latents, labels, attributes, hidden) for _ in range(couplings)
        )

    def to_noise(self, latents: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Map latents `[n, d]` to noise.

        Returns noise `[n, d]` and log |d noise / d latents| `[n]`.
        """
        total = latents.new_zeros(len(latents))
        for coupling in self.couplings:
            latents, log_det = coupling(latents, condition)
            total = total + log_det
        noise, log_det = self.base.to_noise(latents, condition)
        return noise, total + log_det

    def from_noise(self, noise: Tensor, condition: Condition | None) -> Tensor:
        """Map noise `[n, d]` to latents `[n, d]`."""
        latents = self.base.from_noise(noise, condition)
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            latents = coupling.inverse(latents, condition)
        return latents

    def log_prob(self, latents: Tensor, condition: Condition | None) -> Tensor:
        """Compute the log-density of latents `[n, d]` in nats, `[n]`."""
        noise, log_det = self.to_noise(latents, condition)
        return standard_normal_log_prob(noise) + log_det
