"""Gradient checkpointing: activations are computed again in the backward pass, which saves their memory."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputes(nn.Module):
    """A block that may keep only its inputs for the backward pass.

    If `recomputes` is set, its activations are computed again there (Chen et al. 2016), which takes about a
    third more time.
    Gradients stay the same bit for bit, because a block draws no random numbers and updates no buffers.
    """

    recomputes: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block."""
        if not (self.recomputes and torch.is_grad_enabled()):
            return super().__call__(*args, **kwargs)
        return checkpoint(super().__call__, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def recompute_blocks(network: nn.Module, on: bool) -> bool:
    """Let all blocks of a network recompute; returns whether it has any."""
    blocks = [module for module in network.modules() if isinstance(module, Recomputes)]
    for block in blocks:
        block.recomputes = on
    others = [module for module in (getattr(network, "denoiser", None),) if module is not None]
    for module in others:  # a network of `diffusers`, which has blocks of its own
        module.enable_gradient_checkpointing() if on else module.disable_gradient_checkpointing()
    return bool(blocks or others)
