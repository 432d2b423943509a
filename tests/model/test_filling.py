"""Filling changes no byte outside of the mask: ten thousand random cases of images, masks and families."""

from typing import Any

import numpy as np
import pytest
import torch

from danqing.families import build, parse_config
from danqing.families.mask_shapes import draw_masks
from danqing.images import Images
from danqing.model.model import Model

CASES = 10_000
FLOW = {"family": "flow", "net": "dit", "patch": 4, "widths": [16], "layers": 1, "heads": 2}
TRANSFORMER = {"family": "transformer", "layers": 1, "features": 16, "heads": 2}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flow with masks": (FLOW | {"width": 8, "height": 6, "channels": 3, "mask_share": 0.5}, {"num_steps": 2}),
    "flow without": (FLOW | {"width": 5, "height": 9, "channels": 4}, {"num_steps": 2, "sampler": "heun"}),
    "flow in bfloat16": (FLOW | {"width": 7, "height": 7, "channels": 1}, {"precision": "bfloat16"}),
    "transformer": (TRANSFORMER | {"width": 4, "height": 5, "channels": 1}, {}),
    "vae": (
        {"family": "vae", "net": "mlp", "latents": 4, "features": 4, "width": 6, "height": 7, "channels": 3},
        {"num_steps": 2},
    ),
    "gan": (
        {"family": "gan", "latents": 4, "generator_features": 4, "width": 8, "height": 6, "channels": 4},
        {"num_steps": 2},
    ),
    "masked order": (
        TRANSFORMER
        | {
            "order": "masked",
            "width": 8,
            "height": 8,
            "channels": 2,
            "tokenizer": {
                "family": "vqvae",
                "width": 8,
                "height": 8,
                "channels": 2,
                "features": 4,
                "blocks": 0,
            },
        },
        {"num_steps": 2},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_byte_outside_of_the_mask_changes(name: str) -> None:
    settings, options = MODELS[name]
    torch.manual_seed(0)
    family = build(parse_config(settings))
    for parameter in family.parameters():  # the output of fresh weights may be zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    count, rng = CASES // len(MODELS), np.random.default_rng(1)
    config = family.config
    pixels = rng.integers(0, 256, (count, config.height, config.width, config.channels), dtype=np.uint8)
    drawn = draw_masks(count, config.height, config.width, torch.Generator().manual_seed(2))
    masks = drawn[:, 0].numpy() > 0
    masks[0], masks[1] = False, True
    filled = Model(family).fill(Images(pixels), masks, seeds=range(count), **options).array
    assert np.array_equal(filled[~masks], pixels[~masks])
    covered = masks.any((1, 2))
    changed = (filled != pixels).any((1, 2, 3))
    assert not changed[~covered].any()
    assert changed[covered].mean() > 0.95, "what is covered is sampled"
