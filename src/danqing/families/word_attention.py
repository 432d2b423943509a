"""How much each place of an image attends to each token of its text.

The attention of a network is not kept while it computes. Here a hook computes its weights once more, beside
the layer itself, so that no layer has a second form for it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from danqing.families import paths
from danqing.families.base import Condition
from danqing.families.masked_order import known_when_written, spread
from danqing.families.transformer import Attention
from danqing.nets.flow.blocks import TextAttention, normalize
from danqing.randomness import normal

if TYPE_CHECKING:  # each of the two families does without the other
    from danqing.families.flow import FlowModel
    from danqing.families.transformer import TransformerLearner

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where on the way from noise to the image a flow is observed."""
STEPS = 12
"""In how many steps an image is written in masked order."""


def of_transformer(model: "TransformerLearner", images: Tensor, condition: Condition) -> Tensor:
    """Return the attention of codes to the tokens of texts.

    Returns `[n, text length, rows, columns]`, the mean over heads, layers and the codes of a place.
    """
    codes = model.codec.tokenize(images).flatten(1)
    rows, columns, depth = model.codec.code_shape
    count, length = rows * columns * depth, model.prefix.length
    prefix = model.prefix(condition, torch.zeros(len(images), dtype=torch.bool, device=images.device))
    is_raster = model.config.order == "raster"
    total, layers = images.new_zeros(len(images), count, length), 0

    def observe(module: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal total, layers
        assert isinstance(module, Attention)
        weights = _weights(module, *given)
        written = weights[:, length - 1 :] if is_raster else weights[:, -count:]
        total, layers = total + written[:, :count, :length].float(), layers + 1

    with _observed(model.net, Attention, observe):
        if is_raster:
            model.net(prefix, codes)
        else:
            order = spread(rows, columns, depth).argsort().argsort().to(codes.device).expand_as(codes)
            none = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
            model.net.parallel(prefix, codes, order, known_when_written(order, none, STEPS))
    mean = (total / layers).view(len(images), rows, columns, depth, length).mean(3)
    return mean.permute(0, 3, 1, 2)[:, : model.config.text.length]


def of_flow(model: "FlowModel", images: Tensor, condition: Condition, seeds: list[int]) -> Tensor:
    """Return the attention of noisy images to the tokens of texts.

    seeds: of the noise of each image.
    Returns `[n, text length, rows, columns]`, the mean over heads, layers and times.
    """
    latents = model.latents_of(images)
    noise = normal(seeds, latents.shape[1:], device=latents.device)
    absent = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    given = model.given(condition, absent, latents.shape[-2:])
    found: list[Tensor] = []

    def observe(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, TextAttention)
        found.append(_text_weights(module, *given).float())

    with _observed(model, TextAttention, observe):
        for time in TIMES:
            t = torch.full((len(images),), time, device=images.device)
            model.predict(paths.mix(t, latents, noise), t, given, "float32")
    mean = torch.stack(found).mean(0)[:, :, 1:]  # without the token of the text as a whole
    places, (height, width) = mean.shape[1], latents.shape[-2:]
    rows = max(1, round(math.sqrt(places * height / width)))
    return mean.view(len(images), rows, places // rows, -1).permute(0, 3, 1, 2)


def _weights(
    layer: Attention, x: Tensor, rotations: Tensor, seen: Tensor | None = None, start: int = 0
) -> Tensor:
    """Return the weights of a layer of a transformer, `[n, queries, keys]`, the mean over its heads."""
    q, k, _ = layer.project(x, rotations)
    if seen is None:
        count = x.shape[1]
        seen = torch.ones(1, count, count, dtype=torch.bool, device=x.device).tril()
    else:
        q, k = q[:, :, start:], k[:, :, : seen.shape[2]]
    k = k.repeat_interleave(layer.heads // layer.key_value_heads, dim=1)
    products = (q @ k.transpose(2, 3)).masked_fill(~seen[:, None], -torch.inf)
    return products.float().softmax(-1).mean(1)


def _text_weights(layer: TextAttention, x: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Return the weights of a layer of a flow, `[n, places, tokens]`, the mean over its heads."""
    q = layer.q(normalize(x)).view(*x.shape[:2], layer.heads, -1).transpose(1, 2)
    k = layer.kv(normalize(tokens))[..., : x.shape[2]].view(*tokens.shape[:2], layer.heads, -1)
    scale = math.sqrt(layer.head_width)
    products = (layer.gain * normalize(q) / scale) @ (normalize(k) / scale).permute(0, 2, 3, 1)
    return products.masked_fill(~known[:, None, None, :], -torch.inf).float().softmax(-1).mean(1)


@contextmanager
def _observed(
    network: nn.Module, kind: type[nn.Module], observe: Callable[[nn.Module, tuple[Any, ...]], None]
) -> Iterator[None]:
    """Call a function with the inputs of each layer of a kind."""
    hooks = [
        layer.register_forward_pre_hook(observe) for layer in network.modules() if isinstance(layer, kind)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
