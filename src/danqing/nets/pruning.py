"""Orders the channels of a generator by how much they matter, so that the last ones can be removed.

The order of channels changes nothing of what a network computes. A channel matters as much as the norm of the
weights that read it (Li et al. 2017, "Pruning Filters for Efficient ConvNets"), times the scale of its batch
norm (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming").
"""

import itertools

import torch
from torch import Tensor, nn

from danqing.nets.gan_pairs import DCGANGenerator, MLPGenerator


def order_channels(generator: nn.Module) -> bool:
    """Sort the channels of each layer, the most important first, in place.

    Returns whether the network is one whose channels can be sorted.
    """
    if isinstance(generator, MLPGenerator):
        for layer, following in itertools.pairwise([*generator.hidden, generator.last]):
            assert isinstance(layer, nn.Linear)
            assert isinstance(following, nn.Linear)
            order = following.weight.norm(dim=0).argsort(descending=True)
            _sort(layer.weight, 0, order)
            _sort(layer.bias, 0, order)
            _sort(following.weight, 1, order)
        return True
    if isinstance(generator, DCGANGenerator):
        for stage in range(len(generator.grow)):
            _order_stage(generator, stage)
        return True
    return False


def _order_stage(generator: DCGANGenerator, stage: int) -> None:
    """Sort the channels that one stage reads."""
    norm, reader = generator.norms[stage], generator.grow[stage]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(reader.weight, Tensor)
    axis = 0 if isinstance(reader, nn.ConvTranspose2d) else 1
    others = [other for other in range(4) if other != axis]
    order = (norm.weight.abs() * torch.linalg.vector_norm(reader.weight, dim=others)).argsort(descending=True)
    _sort(reader.weight, axis, order)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        _sort(tensor, 0, order)
    if stage:
        writer = generator.grow[stage - 1]
        _sort(writer.weight, 1, order)
        _sort(writer.bias, 0, order)
    else:  # its outputs are the channels of each place, one place after the other
        height, width, channels = generator.first.shape
        places = torch.arange(height * width)[:, None] * channels
        rows = (places + order.cpu()).flatten()
        _sort(generator.first.linear.weight, 0, rows)
        _sort(generator.first.linear.bias, 0, rows)


@torch.no_grad()
def _sort(tensor: Tensor | nn.Module | None, axis: int, order: Tensor) -> None:
    assert isinstance(tensor, Tensor)
    tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))
