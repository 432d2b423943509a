"""Images of a transformer: codes are drawn from logits, one after another or many in a step."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from danqing.compress.runtime.flow import lerp
from danqing.compress.runtime.graphs import Array, Graph
from danqing.compress.runtime.manifest import Codes
from danqing.compress.runtime.normals import uniform
from danqing.compress.runtime.request import Report, Request
from danqing.guidance import GuidanceRules, scale_at
from danqing.images import floats_of_pixels


def sample(graphs: Mapping[str, Graph], loop: Codes, request: Request, report: Report) -> Array:
    """Sample images, float32 `[n, c, h, w]` in [-1, 1].

    Raises ConfigError for guidance that is not possible.
    """
    rules = GuidanceRules(loop.has_condition, loop.has_dropout)
    rules.check_code_guidance(request.options, request.negative)
    writer = _Writer(graphs, loop, request)
    write = _raster if loop.kind == "raster" else _masked
    return writer.images_of(write(writer, report))


class _Writer:
    """Runs the graphs of some images, twice as many rows where guidance compares them."""

    def __init__(self, graphs: Mapping[str, Graph], loop: Codes, request: Request) -> None:
        self.graphs, self.loop, self.options = graphs, loop, request.options
        self.is_guided = request.options["guidance_scale"] != 1
        self.count, self.codes = len(request.seeds), math.prod(loop.shape)
        self.uniforms = uniform(request.seeds, (self.codes,), "codes")
        inputs = request.condition
        if self.is_guided:
            inputs = {name: np.concatenate([rows, request.away[name]]) for name, rows in inputs.items()}
        begun = graphs["begin"]({**inputs, "count": np.zeros(self.count * (1 + self.is_guided))})
        self.logits, self.cache = begun[0], begun[-1]

    def step(self, codes: Array, inputs: Mapping[str, Array]) -> None:
        """Take codes `[n, ...]`; compute the next logits."""
        both = np.concatenate([codes, codes]) if self.is_guided else codes
        self.logits, self.cache = self.graphs["step"]({**inputs, "codes": both, "cache": self.cache})

    def draw(self, progress: float, uniforms: Array) -> Array:
        """Draw codes from the latest logits; progress: as of `danqing.guidance.scale_at`."""
        logits = self.logits
        if self.is_guided:
            under, away = np.split(logits, 2)
            scale = scale_at(self.options["guidance_scale"], self.options["guidance_schedule"], progress)
            logits = lerp(away, under, np.array(scale, np.float32))
        return choose(logits, uniforms, self.options)

    def images_of(self, codes: Array) -> Array:
        """Turn codes `[n, N]` into images, grey where they are -1."""
        grid = codes.reshape(-1, *self.loop.shape)
        written = np.maximum(grid, 0)
        if self.loop.are_pixels:
            images = floats_of_pixels(written.astype(np.uint8))
        else:
            images = self.graphs["decode"]({"codes": written})[0]
        hidden = np.asarray((grid < 0).any(3))
        if hidden.any():
            for axis, side in ((1, images.shape[2]), (2, images.shape[3])):
                hidden = hidden.repeat(-(-side // hidden.shape[axis]), axis)
            images = np.where(hidden[:, None, : images.shape[2], : images.shape[3]], 0, images)
        return images


def _raster(writer: _Writer, report: Report) -> Array:
    """Write codes row by row, each from all before it."""
    codes = np.full((writer.count, writer.codes), -1)
    for place in range(writer.codes):
        if place:
            writer.step(codes[:, place - 1], {"place": np.array([place - 1])})
        progress = place / max(writer.codes - 1, 1)
        codes[:, place] = writer.draw(progress, writer.uniforms[:, place])
        report(place + 1, writer.codes, functools.partial(writer.images_of, codes.copy()))
    return codes


def _masked(writer: _Writer, report: Report) -> Array:
    """Write many codes in each step, in the order of the model."""
    steps, order = writer.options["num_steps"], np.array(writer.loop.order)
    codes = np.full((writer.count, writer.codes), -1)
    known, entering = 0, order[:0]
    for step, left in enumerate(left_unknown(writer.codes, steps)):
        requested = order[known : writer.codes - left]
        if len(requested):
            writer.step(codes[:, entering], {"entering": entering, "requested": requested})
            codes[:, requested] = writer.draw(step / max(steps - 1, 1), writer.uniforms[:, requested])
            known, entering = writer.codes - left, requested
        report(step + 1, steps, functools.partial(writer.images_of, codes.copy()))
    return codes


def left_unknown(wanted: int, num_steps: int) -> list[int]:
    """Return how many codes are unknown after each step (Chang et al. 2022, section 3.2).

    wanted: how many are unknown at first.
    """
    left, found = wanted, []
    for step in range(1, num_steps + 1):
        share = np.float32(math.cos(0.5 * math.pi * step / num_steps))
        left = max(0, min(int(np.floor(np.float32(wanted) * share + np.float32(1e-6))), left - 1))
        found.append(left)
    return found


def choose(logits: Array, uniforms: Array, options: Mapping[str, Any]) -> Array:
    """Draw codes int64 `[...]` from logits `[..., vocabulary]` by inverse transform sampling.

    uniforms: `[...]` in [0, 1). options: those of `danqing.families.decoding.Sampling`.
    """
    temperature, top_k, top_p = (options[name] for name in ("temperature", "top_k", "top_p"))
    if temperature < np.finfo(np.float32).tiny:
        return np.asarray(logits.argmax(-1))
    if temperature != 1:  # the largest becomes 0, so that nothing overflows
        logits = (logits - logits.max(-1, keepdims=True)) / np.float32(temperature)
    vocabulary = logits.shape[-1]
    kept = min(top_k or vocabulary, vocabulary)
    if kept == vocabulary and top_p == 1:
        return _inverted(_softmax(logits), uniforms)
    codes = np.argsort(-logits, axis=-1, kind="stable")[..., :kept]
    probabilities = _softmax(np.take_along_axis(logits, codes, -1))
    if top_p < 1:
        before = _sums(probabilities) - probabilities
        probabilities = np.where((before >= top_p) & (before > 0), np.float32(0), probabilities)
    chosen = _inverted(probabilities, uniforms)
    return np.take_along_axis(codes, chosen[..., None], -1)[..., 0]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _sums(values: Array) -> Array:
    """Return cumulative sums in float64, rounded, as PyTorch computes them."""
    return np.cumsum(values, axis=-1, dtype=np.float64).astype(np.float32)


def _inverted(probabilities: Array, uniforms: Array) -> Array:
    """Return the first index at which the cumulative sum exceeds a share, as `families.decoding.invert`."""
    sums = _sums(probabilities)
    total = sums[..., -1:]
    below = np.minimum(uniforms[..., None] * total, np.nextafter(total, np.float32(0)))
    return np.asarray((sums <= below).sum(-1))
