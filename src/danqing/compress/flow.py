"""The plan for flow models of pixels and latents: one evaluation of the network is a graph."""

import torch
from torch import Tensor, nn

from danqing.compress.one_shot import SEAMLESS
from danqing.compress.plan import ConditionPorts, GraphPlan, Plan, Size, images_port, own_size
from danqing.compress.runtime.manifest import Flow, Port
from danqing.errors import ModelError
from danqing.families.flow_sampling import FlowSampler
from danqing.families.flow_variants import Flow as PixelFlow
from danqing.families.flow_variants import LatentFlow
from danqing.sizes import SizeRange

SIZES = "Other sizes than its own need PyTorch."


class _Step(nn.Module):
    """Noisy images and times in, predicted images out, all `[n, c, h, w]` or `[n]`.

    guide: run the early copy of the network.
    """

    def __init__(self, family: FlowSampler, given: ConditionPorts, *, guide: bool) -> None:
        super().__init__()
        self.family, self._given, self._guide = family, given, guide

    def forward(self, z: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        named = self._given.named(condition)
        absent = named.get("absent", torch.zeros_like(t, dtype=torch.bool))
        if "blank" in named:
            absent = absent | named["blank"]
        given = self.family.given_encoded(
            self._given.condition(condition), named.get("tokens"), absent, z.shape[2:], guide=self._guide
        )
        return self.family.predict(z, t, given, "float32", guide=self._guide)


class _Images(nn.Module):
    """Latents in, images out."""

    def __init__(self, family: FlowSampler) -> None:
        super().__init__()
        self.family = family

    def forward(self, latents: Tensor) -> Tensor:
        return self.family.images_of(latents)


def of_flow(family: FlowSampler) -> Plan:
    """Return the plan of a flow model; raises ModelError where it has none."""
    config = family.config
    if config.pairs:
        raise ModelError("A flow model of pairs turns images into others, and only sampling is exported.")
    if config.grow and int(family.level):
        raise ModelError("This model has not grown to its whole size: train it further, then export it.")
    given = ConditionPorts(config, label=config.reads_labels, attributes=config.reads_attributes, absent=True)
    is_latent = config.tokenizer is not None
    sizes, multiple = own_size(config), 0
    if isinstance(family, PixelFlow) and all(
        side % family.sizes.multiple == 0 for size in family.sizes.own for side in size
    ):
        sizes, multiple = family.sizes, family.sizes.multiple
    shape = family.codec.latent_shape
    rules = family.guidance_rules
    graphs = {"step": _step(family, given, shape, multiple, guide=False)}
    if rules.guide_trained:
        graphs["guide"] = _step(family, given, shape, multiple, guide=True)
    if is_latent:
        graphs["decode"] = _decoder(family, shape)
    options = dict(family.sample_defaults())
    options.pop("precision")
    left_out = [] if options.pop("seamless", None) is None else [SEAMLESS]
    if isinstance(family, LatentFlow):
        left_out.append(SIZES)
    loop = Flow(
        shape=shape,
        is_latent=is_latent,
        has_condition=rules.has_condition,
        has_dropout=rules.has_dropout,
        has_guide=rules.has_guide,
        guide_trained=rules.guide_trained,
    )
    return Plan(loop, graphs, _only_possible(sizes, multiple), options, given.text, tuple(left_out))


def _only_possible(sizes: SizeRange, multiple: int) -> SizeRange:
    """Return the sizes that the graph takes."""
    return sizes if multiple else SizeRange(sizes.own[:1])


def _step(
    family: FlowSampler, given: ConditionPorts, shape: tuple[int, int, int], multiple: int, *, guide: bool
) -> GraphPlan:
    """Return the graph of the network, or of its early copy.

    shape: of latents or images, `(c, h, w)`.
    """
    channels, height, width = shape

    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        sides = (size[1], size[0]) if multiple else (height, width)
        z = torch.randn(batch, channels, *sides, generator=rng)
        return z, torch.rand(batch, generator=rng), *given.examples(batch, rng)

    axes: tuple[int | str, ...] = ("n", channels, *(("h", "w") if multiple else (height, width)))
    z, t = Port(name="z", dtype="float32", shape=axes), Port(name="t", dtype="float32", shape=("n",))
    image = Port(name="image", dtype="float32", shape=axes)
    network = _Step(family, given, guide=guide).eval()
    return GraphPlan(network, (z, t, *given.ports), (image,), examples, multiple)


def _decoder(family: FlowSampler, shape: tuple[int, int, int]) -> GraphPlan:
    """Return the graph from latents to images."""

    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(batch, *shape, generator=rng),)

    latents = Port(name="latents", dtype="float32", shape=("n", *shape))
    return GraphPlan(_Images(family).eval(), (latents,), (images_port(family.config),), examples)
