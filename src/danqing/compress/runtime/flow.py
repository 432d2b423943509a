"""Images of a flow: a sampler follows a velocity from noise to images (`danqing.samplers`)."""

from collections.abc import Callable, Mapping

import numpy as np

from danqing import samplers
from danqing.arrays import per_row
from danqing.compress.runtime.graphs import Array, Graph
from danqing.compress.runtime.manifest import Flow
from danqing.compress.runtime.normals import normal
from danqing.compress.runtime.request import Report, Request
from danqing.guidance import GuidanceRules


def sample(graphs: Mapping[str, Graph], loop: Flow, request: Request, report: Report) -> Array:
    """Sample images, float32 `[n, c, h, w]` in [-1, 1].

    Raises ConfigError for guidance that is not possible.
    """
    chosen, seeds = request.options, request.seeds
    channels, height, width = loop.shape
    if request.size is not None:
        width, height = request.size
    shape = (channels, height, width)

    def images_of(z: Array) -> Array:
        return graphs["decode"]({"latents": z})[0] if loop.is_latent else np.clip(z, -1, 1)

    def told(done: int, steps: int, preview: Callable[[], Array]) -> None:
        report(done, steps, lambda: images_of(preview()))

    found = samplers.integrate(
        chosen["sampler"],
        _velocity(graphs, loop, request),
        normal(seeds, shape),
        samplers.time_grid(chosen["num_steps"], chosen["time_shift"]),
        noise=lambda step: normal(seeds, shape, f"step {step}"),
        on_step=told,
    )
    return images_of(found)


def _velocity(graphs: Mapping[str, Graph], loop: Flow, request: Request) -> samplers.Velocity:
    """Return the velocity towards predictions, which guidance moves.

    Guidance is that of `danqing.families.flow_sampling.FlowSampler`; pixels are bounded to [-1, 1].
    """
    chosen = request.options
    rules = GuidanceRules(loop.has_condition, loop.has_dropout, loop.has_guide, loop.guide_trained)
    rules.check_flow_guidance(chosen, request.negative)
    scale = chosen.get("guidance_scale", 1)
    by_guide = scale != 1 and chosen["guidance"] == "guide"
    first, last = chosen.get("guidance_start", 0), chosen.get("guidance_end", 1)
    both = {name: np.concatenate([values, request.away[name]]) for name, values in request.condition.items()}

    def predicted(z: Array, t: Array) -> Array:
        weight = np.where((t >= first) & (t <= last), scale, 1.0).astype(np.float32)
        is_adaptive = chosen["sampler"] == "adaptive"  # its steps differ from image to image
        if scale == 1 or (not is_adaptive and (weight == 1).all()):
            return graphs["step"]({**request.condition, "z": z, "t": t})[0]
        if by_guide:
            wanted = graphs["step"]({**request.condition, "z": z, "t": t})[0]
            other = graphs["guide"]({**request.condition, "z": z, "t": t})[0]
        else:
            twice = {"z": np.concatenate([z, z]), "t": np.concatenate([t, t])}
            wanted, other = np.split(graphs["step"]({**both, **twice})[0], 2)
        return lerp(other, wanted, np.asarray(per_row(weight, z)))

    def velocity(z: Array, t: Array) -> Array:
        image = predicted(z, t)
        bounded = image if loop.is_latent else np.clip(image, -1, 1)
        return np.asarray((bounded - z) / per_row((1 - t).clip(samplers.LEAST_NOISE), z))

    return velocity


def lerp(start: Array, end: Array, weight: Array) -> Array:
    """Interpolate as `torch.lerp` does, which is exact at both ends."""
    near = start + weight * (end - start)
    return np.asarray(np.where(np.abs(weight) < 0.5, near, end - (end - start) * (1 - weight)))
