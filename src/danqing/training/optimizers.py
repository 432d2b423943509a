"""Optimisers from their configuration, and their state as named tensors."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.training.config import OptimizerConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def build(config: OptimizerConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """The configured optimiser over `parameters`, with the fused kernel where torch has one.

    Weights decay, and nothing else: a gain, a bias or a position that is drawn to zero says less, and is no
    simpler for it. Raises ConfigError where there is nothing that the optimiser is for.
    """
    named = list(parameters)
    if config.name == "muon":
        return MuonAndAdamW(config, named)
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
        adamw = build(config.model_copy(update={"name": "adamw"}), others)
        super().__init__([*muon.param_groups, *adamw.param_groups], adamw.defaults)
        self._parts = (muon, adamw)
        for part in self._parts:
            part.state = self.state  # the groups are shared as they are

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step of both."""
        for part in self._parts:
            part.step()


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
