"""How often sampling evaluates the networks of a flow: guidance counts, and nothing is taken on trust."""

from collections.abc import Callable
from typing import Any

from torch import nn

from danqing import samplers
from danqing.images import Images
from danqing.model.model import Model


def within(model: Model, evaluations: int, **options: Any) -> dict[str, Any]:
    """Return the options of `sample` with the most steps within so many evaluations per image.

    Guidance at another scale than 1 costs a second evaluation at each time. A family other than flow gets its
    options back as they are.
    """
    if model.family.config.family != "flow":
        return options
    chosen = {**model.sample_options, **options}
    at_once = 1 if chosen.get("guidance_scale", 1) == 1 else 2
    return {**options, "num_steps": samplers.steps_for(chosen["sampler"], evaluations // at_once)}


def counted(model: Model, generate: Callable[[], Images]) -> tuple[Images, float]:
    """Return what `generate` generates and the evaluations of the flow's networks per image.

    The images that fill up the last chunk are not counted.
    """
    rows = 0

    def count(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        nonlocal rows
        rows += len(inputs[0])

    networks = [getattr(model.family, name, None) for name in ("network", "guide")]
    hooks = [network.register_forward_hook(count) for network in networks if isinstance(network, nn.Module)]
    try:
        images = generate()
    finally:
        for hook in hooks:
            hook.remove()
    chunk = model.family.chunk
    computed = -(-len(images) // chunk) * chunk
    return images, round(rows / computed, 2)
