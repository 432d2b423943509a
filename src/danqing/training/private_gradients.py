"""Gradients of a private run: each image's gradient is clipped, and noise is added to their sum (DP-SGD).

Abadi et al. 2016, algorithm 1. The gradient of each image has at most the length `clip`, so that one image
changes the sum by no more than that, and normal noise of `noise_multiplier * clip` hides the change. Of each
image several noises are drawn and averaged before clipping, which costs no privacy (noise multiplicity,
Dockhorn et al. 2023, section 3.2).
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from danqing.errors import ConfigError
from danqing.families.base import Batch, Condition, Learner, Phase
from danqing.precision import Precision, autocast
from danqing.randomness import derived_seed, generator, keyed_normal
from danqing.training.config_sections import PrivateConfig

Parameters = Sequence[tuple[str, nn.Parameter]]


class Noise(NamedTuple):
    """The noise of a run.

    multiplier: its standard deviation, in units of the clipping length.
    key: 32 bytes from which all randomness of the steps follows.
    """

    multiplier: float
    key: bytes

    @property
    def seed(self) -> int:
        """Return a seed that follows from the key, for what is drawn besides the noise."""
        return seed_of(self.key)


def seed_of(key: bytes) -> int:
    """Return a seed that only the holder of a key can compute."""
    return derived_seed(0, f"private {key.hex()}")


class PrivateGradients:
    """Computes the gradients of phases that see data.

    noise: set before the first step.
    batch_size: of batches, on average; sums are divided by it, since the size of a batch tells who is in it.
    """

    noise: Noise | None = None

    def __init__(self, config: PrivateConfig, learner: Learner, batch_size: int) -> None:
        """Raises ConfigError if layers of the learner mix the images of a batch."""
        if any(isinstance(module, _BatchNorm) for module in learner.modules()):
            raise ConfigError(
                "Batch norm mixes the images of a batch, so no gradient is that of one image alone: choose "
                "another network, or train without private."
            )
        self._config, self._learner, self._batch_size = config, learner, batch_size

    def compute(
        self,
        phase: Phase,
        parameters: Parameters,
        batch: Batch,
        position: tuple[int, int],
        *,
        micro_batch: int,
        precision: Precision,
    ) -> Tensor:
        """Set the gradients of parameters to noisy means of clipped gradients; returns their length.

        position: the step and the repeat of the phase.
        micro_batch: how many images are computed at once.
        """
        assert self.noise is not None
        device = parameters[0][1].device
        sums = [torch.zeros_like(parameter, requires_grad=False) for _, parameter in parameters]
        values = {f"learner.{name}": parameter.detach() for name, parameter in parameters}
        one, rows = _LossOfOne(self._learner, phase, self._config.draws), _rows(batch)
        # The kernels of attention that are made for processors cannot be mapped over images.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            for part, start in enumerate(range(0, len(batch), micro_batch)):
                some = {name: value[start : start + micro_batch] for name, value in rows.items()}
                rng = generator(self.noise.seed, f"loss/{phase.name}", *position, part, device=device)

                def loss(
                    values: dict[str, Tensor], row: dict[str, Tensor], rng: torch.Generator = rng
                ) -> Tensor:
                    with autocast(precision, device):
                        total: Tensor = functional_call(one, values, (row, rng))
                    return total

                gradients = vmap(grad(loss), in_dims=(None, 0), randomness="different")(values, some)
                add_clipped(sums, [gradients[name] for name in values], self._config.clip)
            return self._with_noise(phase, parameters, sums, position)

    def _with_noise(
        self, phase: Phase, parameters: Parameters, sums: list[Tensor], position: tuple[int, int]
    ) -> Tensor:
        assert self.noise is not None
        count = sum(total.numel() for total in sums)
        drawn = torch.from_numpy(keyed_normal(self.noise.key, f"noise/{phase.name}", *position, count=count))
        drawn *= self.noise.multiplier * self._config.clip
        squares, start = 0.0, 0
        for (_, parameter), total in zip(parameters, sums, strict=True):
            own = drawn[start : start + total.numel()].view(total.shape)
            # In float64, so that rounding to float32 hides the last digits of the noise.
            noisy = (total.double().cpu() + own) / self._batch_size
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(noisy)
            squares += float(noisy.square().sum())
            start += total.numel()
        return torch.tensor(squares**0.5)

    def batch_without_data(self, like: Batch, images: int) -> Batch:
        """Return a batch for a phase that sees no data: black images with labels drawn evenly.

        like: a batch of data, of which only the shape is used. images: how many the run has seen.
        """
        assert self.noise is not None
        shape, device = (self._batch_size, *like.images.shape[1:]), like.images.device
        label = None
        if like.condition.label is not None:
            rng = generator(self.noise.seed, "labels", images)
            label = torch.randint(len(self._learner.config.labels), shape[:1], generator=rng).to(device)
        return Batch(torch.full(shape, -1.0, device=device), Condition(label=label))


def add_clipped(sums: list[Tensor], gradients: Sequence[Tensor], clip: float) -> None:
    """Add gradients `[n, ...]` to sums in place; those of each image are scaled to the length `clip` at most.

    An image whose gradient is not finite adds nothing.
    """
    flat = [value.reshape(len(value), -1).float() for value in gradients]
    lengths = torch.stack([torch.linalg.vector_norm(value, dim=1) for value in flat]).norm(dim=0)
    finite = lengths.isfinite()
    factors = torch.where(finite, (clip / lengths.clamp_min(1e-12)).clamp(max=1.0), 0.0)
    if not finite.all():  # 0 times infinity is not 0
        flat = [value.nan_to_num(0.0, 0.0, 0.0) for value in flat]
    for total, value in zip(sums, flat, strict=True):
        total += (factors @ value).view(total.shape)


class _LossOfOne(nn.Module):
    """The loss of one image, averaged over several draws of what the loss draws at random."""

    def __init__(self, learner: Learner, phase: Phase, draws: int) -> None:
        super().__init__()
        self.learner, self._phase, self._draws = learner, phase, draws

    def forward(self, row: dict[str, Tensor], rng: torch.Generator) -> Tensor:
        copies = {name: value.expand(self._draws, *value.shape) for name, value in row.items()}
        batch = Batch(copies["images"], Condition(label=copies.get("label")))
        return self.learner.loss(batch, self._phase, rng).total


def _rows(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch; what they do not hold is never part of a private run."""
    assert replace(batch.condition, label=None) == Condition()
    assert batch.codes is None
    assert batch.noise is None
    assert batch.targets is None
    label = batch.condition.label
    return {"images": batch.images} | ({} if label is None else {"label": label})
