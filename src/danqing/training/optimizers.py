"""Optimisers from their configuration, and their state as named tensors."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danqing.training.config import OptimizerConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def build(config: OptimizerConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """The configured optimiser over `parameters`, with the fused kernel where torch has one.

    Weights decay, and nothing else: a gain, a bias or a position that is drawn to zero says less, and is no
    simpler for it.
    """
    named = list(parameters)
    tensors: list[dict[str, Any]] = [
        {"params": [p for name, p in named if _decays(name, p)]},
        {"params": [p for name, p in named if not _decays(name, p)], "weight_decay": 0.0},
    ]
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case "adamw":
            return torch.optim.AdamW(
                tensors, rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "adam":
            return torch.optim.Adam(
                tensors, rate, betas=config.betas, eps=config.eps, weight_decay=decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(tensors, rate, momentum=config.momentum, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(
                tensors, rate, momentum=config.momentum, eps=config.eps, weight_decay=decay, foreach=True
            )


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
