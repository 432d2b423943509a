"""Plans for families that draw an image in one evaluation: GAN, VAE and VQ-VAE."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from danqing.compress.plan import ConditionPorts, GraphPlan, Plan, Size, images_port, own_size
from danqing.compress.runtime.manifest import OneShot, Port
from danqing.families.base import Condition, Family
from danqing.families.gan import GAN
from danqing.families.vae import VAE
from danqing.families.vqvae import VQVAE

SEAMLESS = "Seamless images need PyTorch."


class _FromNoise(nn.Module):
    """Noise and a condition in, images out."""

    def __init__(self, family: Family, draw: Callable[[Tensor, Condition], Tensor], given: ConditionPorts):
        super().__init__()
        self.family = family  # registers the weights
        self._draw, self._given = draw, given

    def forward(self, noise: Tensor, *condition: Tensor) -> Tensor:
        return self._draw(noise, self._given.condition(condition))


class _Decode(nn.Module):
    """Codes in, images out."""

    def __init__(self, family: VQVAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, codes: Tensor) -> Tensor:
        return self.family.detokenize(codes)


def of_gan(family: GAN) -> Plan:
    """Return the plan of a GAN."""
    config = family.config
    given = ConditionPorts(config, label=config.conditional, attributes=config.reads_attributes)
    network = _FromNoise(family, family.from_noise, given)
    return _from_normal_noise(family, network, given, family.noise_size, "truncation")


def of_vae(family: VAE) -> Plan:
    """Return the plan of a VAE."""
    given = ConditionPorts(
        family.config, label=bool(family.labels), attributes=family.config.reads_attributes
    )
    network = _FromNoise(family, family.from_noise, given)
    return _from_normal_noise(family, network, given, family.noise_size, "temperature")


def of_vqvae(family: VQVAE) -> Plan:
    """Return the plan of a VQ-VAE, whose codes are drawn independently of each other."""
    shares = family.quantizer.frequencies.double()
    loop = OneShot(
        noise="codes",
        purpose="codes",
        shape=family.code_shape,
        distribution="codes",
        shares=tuple(map(tuple, shares.tolist())),
    )
    return Plan(loop, {"generate": decoder_of(family)}, own_size(family.config))


def decoder_of(family: VQVAE) -> GraphPlan:
    """Return the graph from codes to images."""
    shape, vocabulary = family.code_shape, family.vocabulary

    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(vocabulary, (batch, *shape), generator=rng),)

    codes = Port(name="codes", dtype="int64", shape=("n", *shape))
    return GraphPlan(_Decode(family).eval(), (codes,), (images_port(family.config),), examples)


def _from_normal_noise(
    family: Family, network: nn.Module, given: ConditionPorts, count: int, option: str
) -> Plan:
    """Return the plan of a network from normal noise.

    count: the length of one image's noise. option: which multiplies it.
    """

    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        return torch.randn(batch, count, generator=rng), *given.examples(batch, rng)

    noise = Port(name="noise", dtype="float32", shape=("n", count))
    options = dict(family.sample_defaults())
    left_out = () if options.pop("seamless", None) is None else (SEAMLESS,)
    loop = OneShot(noise="noise", purpose="latents", shape=(count,), scale_option=option)
    graph = GraphPlan(network.eval(), (noise, *given.ports), (images_port(family.config),), examples)
    return Plan(loop, {"generate": graph}, own_size(family.config), options, left_out=left_out)
