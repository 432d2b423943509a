"""The directions of a model, and the seeds that are moved along them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from danqing import families
from danqing.errors import ConfigError
from danqing.model.model import Model
from danqing.randomness import MovedSeed, SeedMix, normal, uniform
from danqing.recognition.explain.model_directions import ModelDirections, direction_count
from tests.service.conftest import MODELS


def built(name: str) -> Model:
    torch.manual_seed(0)
    model = Model(families.build(families.parse_config(MODELS[name])))
    model.marks = None
    return model


def test_a_moved_seed_moves_latents_and_nothing_else() -> None:
    by = np.arange(6, dtype=np.float32)
    for seed in (7, SeedMix([(7, 0.5), (9, 0.5)])):
        moved = MovedSeed(seed, by)
        assert moved == int(seed)
        assert torch.equal(normal([moved], (6,)), normal([seed], (6,)) + torch.from_numpy(by))
        for draw in (normal, uniform):
            assert torch.equal(
                draw([moved], (6,), purpose="candidates"), draw([seed], (6,), purpose="candidates")
            )


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_directions_are_found_again_and_an_interruption_loses_one_image(name: str) -> None:
    model, calls, most = built(name), 0, math.inf

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > most:
            calls = 0
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(count)
    vectors, shares = ModelDirections(model).find()
    assert len(vectors) == direction_count(model.family)
    assert torch.allclose(vectors @ vectors.T, torch.eye(len(vectors)), atol=1e-5)
    assert shares.diff().max() <= 0
    interrupted, calls, most, stops = ModelDirections(model), 0, calls / 3, 0
    for _ in range(8):
        try:
            found, _ = interrupted.find()
            break
        except KeyboardInterrupt:
            stops += 1
    hook.remove()
    assert stops > 1
    assert torch.equal(found, vectors)


def test_the_distance_is_measured_along_the_direction() -> None:
    model = built("gan")
    directions = ModelDirections(model)
    vectors, _ = directions.find()
    assert directions.moved(3, {}) == directions.moved(3, {2: 0.0}) == 3
    assert not isinstance(directions.moved(3, {2: 0.0}), MovedSeed)
    (moved,) = normal([directions.moved(3, {1: -1.5, 2: 2.0})], (8,)) - normal([3], (8,))
    assert torch.allclose(vectors @ moved, torch.tensor([-1.5, 2.0, 0, 0, 0, 0]), atol=1e-5)
    for number in (0, 7):
        with pytest.raises(ConfigError, match="from 1 to 6"):
            directions.moved(3, {number: 1.0})
    with pytest.raises(ConfigError, match="one vector of noise"):
        ModelDirections(built("raster"))
    assert direction_count(built("raster").family) == 0
