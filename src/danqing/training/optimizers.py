"""Optimisers from their configuration, and their state as named tensors."""

import importlib.util
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families.base import ParameterKind
from danqing.training.config_sections import OptimizerConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]
KindOf = Callable[[str, nn.Parameter], ParameterKind]
Treated = list[tuple[ParameterKind, nn.Parameter]]


class _Kind(NamedTuple):
    """One optimiser. averages: tensors as large as the weights that it keeps, at most."""

    averages: int
    build: Callable[[OptimizerConfig, Treated], torch.optim.Optimizer]


def build(config: OptimizerConfig, parameters: NamedParameters, kind_of: KindOf) -> torch.optim.Optimizer:
    """Build the configured optimiser over some parameters, with torch's fastest kernel.

    kind_of: how to treat a parameter, as `Learner.parameter_kind` says.
    Raises ConfigError where no parameter is of the kind that the optimiser is for.
    """
    return _KINDS[config.name].build(config, [(kind_of(name, p), p) for name, p in parameters])


def build_each(
    config: OptimizerConfig, phases: Mapping[str, NamedParameters], kind_of: KindOf
) -> dict[str, torch.optim.Optimizer]:
    """Build an optimiser for the parameters of each phase, as `build`.

    Muon leaves a phase without matrices, such as that of a discriminator, to AdamW, if another one has some.
    """
    treated = {name: [(kind_of(each, p), p) for each, p in given] for name, given in phases.items()}
    has_matrices = {name: any(kind == "matrix" for kind, _ in each) for name, each in treated.items()}
    leaves = config.name == "muon" and any(has_matrices.values())
    names = {name: "adamw" if leaves and not has_matrices[name] else config.name for name in treated}
    return {name: _KINDS[names[name]].build(config, each) for name, each in treated.items()}


def averages(config: OptimizerConfig) -> int:
    """Return how many tensors as large as the weights the optimiser keeps, at most."""
    return _KINDS[config.name].averages


def _adamw(config: OptimizerConfig, parameters: Treated) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(
        _groups(parameters), rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
    )


def _adam(config: OptimizerConfig, parameters: Treated) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adam(
        _groups(parameters), rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
    )


def _sgd(config: OptimizerConfig, parameters: Treated) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.SGD(
        _groups(parameters), rate, momentum=config.momentum, weight_decay=decay, fused=True
    )


def _rmsprop(config: OptimizerConfig, parameters: Treated) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.RMSprop(
        _groups(parameters), rate, momentum=config.momentum, eps=config.eps, weight_decay=decay, foreach=True
    )


def _adamw8bit(config: OptimizerConfig, parameters: Treated) -> torch.optim.Optimizer:
    """AdamW whose averages take a byte per number (Dettmers et al. 2022)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "The optimiser adamw8bit needs the package bitsandbytes: pip install bitsandbytes, or set "
            "optimizer=adamw.",
            "optimizer",
        )
    from bitsandbytes.optim import AdamW8bit

    found: torch.optim.Optimizer = AdamW8bit(
        _groups(parameters),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    return found


def _groups(parameters: Treated) -> list[dict[str, Any]]:
    """Return the parameters that decay, and those that do not."""
    return [
        {"params": [p for kind, p in parameters if kind != "other"]},
        {"params": [p for kind, p in parameters if kind == "other"], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Muon over matrices and kernels (Jordan et al. 2024).

    All singular values of a matrix's step are about alike, so that what is rare in the gradient is learned as
    quickly as what is common. Its steps are as long as those of AdamW (Liu et al. 2025, equation 4): one
    learning rate serves both. A kernel `[out, in, h, w]` is treated as the matrix `[out, in * h * w]`, which
    `torch.optim.Muon` does not accept; for a single matrix the two agree bit for bit. A step does not depend
    on which other parameters take one.
    """

    def __init__(
        self, parameters: list[nn.Parameter], rate: float, weight_decay: float, ns_steps: int = 5
    ) -> None:
        defaults = {"lr": rate, "weight_decay": weight_decay, "momentum": 0.95, "ns_steps": ns_steps}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            alike = defaultdict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]](list)
            counts = Counter(_matrix(parameter) for parameter in group["params"])
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                step = gradient.lerp(average, momentum).flatten(1)  # Nesterov
                alike[_matrix(parameter)].append((parameter, step))
            for shape, members in alike.items():
                stacked = torch.stack([step for _, step in members])
                if len(members) == 1 < counts[shape]:  # other processes, or nobody, step the others
                    stacked = stacked.repeat(2, 1, 1)  # kernels round a single matrix otherwise
                steps = orthogonalised(stacked, group["ns_steps"])
                scale = 0.2 * math.sqrt(max(shape))
                for (parameter, _), step in zip(members, steps, strict=False):
                    parameter.mul_(1 - rate * group["weight_decay"])
                    parameter.add_(step.reshape(parameter.shape), alpha=-rate * scale)


def _matrix(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter as a matrix."""
    return parameter.shape[0], parameter.numel() // parameter.shape[0]


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Return matrices with all singular values near 1 and the same singular vectors, in bfloat16.

    matrices: `[k, m, n]`, computed together, each as if the others were not there; but the kernels for k = 1
    may round otherwise. steps: of a Newton-Schulz iteration, with the coefficients of Jordan et al. 2024.
    Each brings singular values about 3.4 times nearer to [0.5, 1.5], quickly rather than to 1 exactly.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.mT if tall else x


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices between hidden layers, AdamW for all else."""

    def __init__(self, config: OptimizerConfig, parameters: Treated) -> None:
        matrices = [p for kind, p in parameters if kind == "matrix"]
        if not matrices:
            raise ConfigError(
                "This network has no matrices between hidden layers, which muon is for: set optimizer=adamw.",
                "optimizer",
            )
        muon = Muon(matrices, config.learning_rate, config.weight_decay, config.ns_steps)
        adamw = _adamw(config, [(kind, p) for kind, p in parameters if kind != "matrix"])
        super().__init__([*muon.param_groups, *adamw.param_groups], adamw.defaults)
        self._parts = (muon, adamw)
        for part in self._parts:
            part.state = self.state  # the groups are shared as they are

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step of both."""
        for part in self._parts:
            part.step()


_KINDS = {
    "adamw": _Kind(2, _adamw),
    "adam": _Kind(2, _adam),
    "muon": _Kind(2, MuonAndAdamW),
    "sgd": _Kind(1, _sgd),
    "rmsprop": _Kind(2, _rmsprop),
    "adamw8bit": _Kind(2, _adamw8bit),
}
"""Every optimiser, by the name that `OptimizerConfig` allows."""


def owners(parameters: NamedParameters, size: int) -> dict[str, int]:
    """Return which of `size` processes steps each parameter, so that all have about as many numbers."""
    owned, load = dict[str, int](), [0] * size
    for name, parameter in sorted(parameters, key=lambda each: (-each[1].numel(), each[0])):
        owned[name] = load.index(min(load))
        load[owned[name]] += parameter.numel()
    return owned


def state_tensors(optimizer: torch.optim.Optimizer, parameters: NamedParameters) -> dict[str, Tensor]:
    """The optimiser's state as `parameter name/state name` → tensor."""
    return {
        f"{name}/{key}": torch.tensor(value) if isinstance(value, int) else value
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor | int)
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, parameters: NamedParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `state_tensors` gave, in the memory layout that the optimiser itself would have chosen.

    The layout matters: kernels treat the ends of a row otherwise than its middle, so that another layout
    could change the last bit of an update.
    """
    named = dict(parameters)
    optimizer.state.clear()
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        if not value.is_floating_point() and value.dim() == 0:  # a count that is no tensor
            optimizer.state[parameter][key] = int(value)
            continue
        layout = torch.empty_like(parameter if value.shape == parameter.shape else value, dtype=value.dtype)
        # Only the fused kernels keep their step counts beside the weights.
        beside = key != "step" or optimizer.defaults.get("fused", False)
        optimizer.state[parameter][key] = layout.to(parameter.device if beside else "cpu").copy_(value)
