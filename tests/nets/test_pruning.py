"""The order of a generator's channels changes nothing, and the channels that matter least are last."""

import pytest
import torch
from torch import nn

from danqing.data.batch import Condition
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_modern import ModernGenerator
from danqing.nets.gan_pairs import DCGANGenerator, MLPGenerator, Net, build_generator
from danqing.nets.pruning import order_channels

SHAPE = GANShape(16, 12, 3, 2, ())
CONDITION = Condition(label=torch.tensor([0, 1, 1]))


def generator_of(net: Net) -> nn.Module:
    torch.manual_seed(0)
    generator = build_generator(net, SHAPE, latents=5, features=6)
    for tensor in generator.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("net", ["dcgan", "mlp"])
def test_sorted_channels_compute_the_same_images(net: Net) -> None:
    generator = generator_of(net)
    latents = torch.randn(3, 5)
    before = generator(latents, CONDITION)
    weights = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    assert order_channels(generator)
    assert any(not torch.equal(weights[name], tensor) for name, tensor in generator.state_dict().items())
    torch.testing.assert_close(generator(latents, CONDITION), before)


def test_the_channels_that_matter_most_come_first() -> None:
    generator = generator_of("dcgan")
    assert isinstance(generator, DCGANGenerator)
    order_channels(generator)
    for norm, reader in zip(generator.norms, generator.grow, strict=True):
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(reader, nn.ConvTranspose2d)
        score = norm.weight.abs() * torch.linalg.vector_norm(reader.weight, dim=(1, 2, 3))
        assert float(score.diff().max()) <= 1e-6
    plain = generator_of("mlp")
    assert isinstance(plain, MLPGenerator)
    order_channels(plain)
    assert float(plain.last.weight.norm(dim=0).diff().max()) <= 1e-6


def test_a_network_whose_channels_depend_on_each_other_stays() -> None:
    generator = generator_of("modern")
    assert isinstance(generator, ModernGenerator)
    assert not order_channels(generator)
