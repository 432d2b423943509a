"""Optimisers from their configuration, and their state as named tensors."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.training.config import OptimizerConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]


class _Kind(NamedTuple):
    """One optimiser. averages: tensors as large as the weights that it keeps, at most."""

    averages: int
    build: Callable[[OptimizerConfig, list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


def build(config: OptimizerConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """Build the configured optimiser over `parameters`, with torch's fastest kernel.

    Weights decay, and nothing else: a gain, a bias or a position that is drawn to zero says less, and is no
    simpler for it. Raises ConfigError where there is nothing that the optimiser is for.
    """
    return _KINDS[config.name].build(config, list(parameters))


def averages(config: OptimizerConfig) -> int:
    """Return how many tensors as large as the weights the optimiser keeps, at most."""
    return _KINDS[config.name].averages


def _adamw(config: OptimizerConfig, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(
        _groups(named), rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
    )


def _adam(config: OptimizerConfig, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adam(
        _groups(named), rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
    )


def _sgd(config: OptimizerConfig, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.SGD(_groups(named), rate, momentum=config.momentum, weight_decay=decay, fused=True)


def _rmsprop(config: OptimizerConfig, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.RMSprop(
        _groups(named), rate, momentum=config.momentum, eps=config.eps, weight_decay=decay, foreach=True
    )


def _groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Return the parameters that decay, and those that do not."""
    return [
        {"params": [p for name, p in named if _decays(name, p)]},
        {"params": [p for name, p in named if not _decays(name, p)], "weight_decay": 0.0},
    ]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices of blocks (Jordan et al. 2024), AdamW for all else.

    Muon makes all singular values of a matrix's step alike, so that what is rare in the gradient is learnt as
    quickly as what is common. Its steps are scaled to be as long as AdamW's (Liu et al. 2025, equation 4):
    one learning rate serves both.
    """

    def __init__(self, config: OptimizerConfig, named: list[tuple[str, nn.Parameter]]) -> None:
        matrices = [p for name, p in named if _is_of_a_block(name, p)]
        if not matrices:
            raise ConfigError(
                "This network has no matrices in blocks, which muon is for: set optimizer=adamw.", "optimizer"
            )
        rate, decay = config.learning_rate, config.weight_decay
        muon = torch.optim.Muon(
            matrices, rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        others = [(name, p) for name, p in named if not _is_of_a_block(name, p)]
        adamw = _adamw(config, others)
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
}
"""Every optimiser, by the name that `OptimizerConfig` allows."""


def _is_of_a_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix between hidden layers: neither a table of vectors, nor what makes the output."""
    return parameter.dim() == 2 and "blocks." in name and _decays(name, parameter)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix or a kernel, as a norm's own `weight` is not."""
    return parameter.dim() > 1 and "weight" in name


def state_tensors(optimizer: torch.optim.Optimizer, parameters: NamedParameters) -> dict[str, Tensor]:
    """The optimiser's state as `parameter name/state name` → tensor."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
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
        layout = torch.empty_like(parameter if value.shape == parameter.shape else value, dtype=value.dtype)
        # Only the fused kernels keep their step counts beside the weights.
        beside = key != "step" or optimizer.defaults.get("fused", False)
        optimizer.state[parameter][key] = layout.to(parameter.device if beside else "cpu").copy_(value)
