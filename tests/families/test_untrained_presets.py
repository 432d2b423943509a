"""Untrained models of every preset draw no grid of pixels, as seen in the spectra of their samples.

No pixel adds up more values than its neighbour, and no peak stands at the highest frequencies, whose period
is two pixels. `dcgan` has the first property alone: each pixel of a square has weights of its own in a
transposed convolution, so single images have a peak until they are trained.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from danqing import presets
from danqing.families import build, can_sample, parse_config
from danqing.families.abilities import Translates
from danqing.families.base import Condition, FamilyConfig
from danqing.families.transformer import TransformerConfig
from danqing.training.config_reading import parse, resolve
from tests.nets.test_grid_patterns import EDGE, peaks, unevenness

SIDE, IMAGES, SEEDS = 48, 4, 12
SMALL = {"features": 8, "generator_features": 8, "discriminator_features": 4, "layers": 1, "heads": 2}
TRANSPOSED = ("gan-32", "faces-32")
"""The presets with `dcgan`."""
MOST_UNEVEN, HIGHEST_PEAK = 0.35, 4


def of_preset(name: str) -> FamilyConfig:
    """The model that draws the pixels of a preset: in two stages, the first one; at 48x48 and less wide."""
    config = resolve(preset=name)
    model = config.model if config.tokenizer is None else parse(config.tokenizer.settings).model
    values: dict[str, Any] = model.model_dump() | {"width": SIDE, "height": SIDE, "channels": 3}
    values |= {key: value for key, value in SMALL.items() if key in values}
    if "widths" in values:
        values["widths"] = [8] * len(values["widths"])
    if "source_channels" in values and model.reads_source:
        values["source_channels"] = 3
    values |= {"condition": "none"} if "condition" in values else {}
    return parse_config(values)


def draws_pixels(name: str) -> bool:
    """Whether a preset samples images by a network that makes several pixels at once."""
    config = resolve(preset=name)
    if not can_sample(config.family):
        return False
    return config.tokenizer is not None or not isinstance(config.model, TransformerConfig)


def drawn(name: str) -> Tensor:
    """The inner part of the images of some fresh networks, `[SEEDS, n, 3, side, side]`, each of mean 0."""
    images = []
    with torch.no_grad(), torch.random.fork_rng():
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            family = build(of_preset(name)).train()  # batch norms by what they see, as at the first step
            seeds = range(seed * IMAGES, (seed + 1) * IMAGES)
            options = {"num_steps": 1} if "num_steps" in family.sample_defaults() else {}
            if getattr(family.config, "prediction", "") == "residual":
                options = {"num_steps": 2}  # from pure noise, the best linear guess is grey everywhere
            if isinstance(family, Translates):
                source = torch.randn(IMAGES, 3, SIDE, SIDE)
                found = family.translate(source, Condition(), seeds=seeds, **options)
            else:
                found = family.sample(Condition(), seeds=seeds, **options)
            images.append(found[..., EDGE:-EDGE, EDGE:-EDGE].float())
    stacked = torch.stack(images)
    return stacked - stacked.mean((-2, -1), keepdim=True)


@pytest.mark.parametrize("name", [name for name in presets.names() if draws_pixels(name)])
def test_an_untrained_preset_draws_no_grid(name: str) -> None:
    images = drawn(name)
    assert unevenness(images) < MOST_UNEVEN
    if name in TRANSPOSED:
        return
    spectrum = torch.fft.fft2(images).abs().square().flatten(0, 2).mean(0)
    side = spectrum.shape[0]
    found = {place: peak for place, peak in peaks(spectrum).items() if side // 2 in place}
    assert max(found.values()) < HIGHEST_PEAK, found
