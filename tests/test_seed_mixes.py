"""Mixes of seeds: their ends are the seeds themselves, and what lies between is as random as they are."""

import numpy as np
import pytest
import torch

from danqing import families
from danqing.errors import ConfigError
from danqing.model.model import Model
from danqing.randomness import SeedMix, normal, uniform
from tests.service.conftest import MODELS


def test_a_mix_of_one_seed_is_that_seed() -> None:
    for draw in (normal, uniform):
        mixed = draw([SeedMix([(7, 0.3), (9, 0)])], (5, 6), purpose="codes")
        assert torch.equal(mixed, draw([7], (5, 6), purpose="codes"))
    assert SeedMix([(3, 0.2), (8, 0.7)]) == 8


def test_normal_values_are_mixed_on_a_sphere() -> None:
    first, second = normal([7, 9], (40_000,))
    (mixed,) = normal([SeedMix([(7, 3.0), (9, 4.0)])], (40_000,))
    assert torch.allclose(mixed, 0.6 * first + 0.8 * second, atol=1e-6)
    assert abs(mixed.std().item() - 1) < 0.01


def test_uniform_values_of_a_mix_are_uniform_and_move_little_by_little() -> None:
    steps = np.linspace(0, 1, 21)
    rows = uniform(
        [SeedMix([(7, 1 - step), (9, step)]) for step in steps], (20_000,), purpose="codes"
    ).numpy()
    assert rows.min() >= 0
    assert rows.max() < 1
    shares = np.stack([np.histogram(row, 20, (0, 1))[0] / row.size for row in rows])
    assert np.abs(shares - 0.05).max() < 0.01
    assert np.abs(np.diff(rows, axis=0)).mean(axis=1).max() < 0.06


@pytest.mark.parametrize("name", ["gan", "vae", "raster", "masked"])
def test_images_of_a_mix_lead_from_one_seed_to_another(name: str) -> None:
    torch.manual_seed(0)
    model = Model(families.build(families.parse_config(MODELS[name])))
    model.marks = None
    label = {} if name == "gan" else {"label": "star"}
    ends = model.sample(2, seeds=[4, 5], **label).array  # type: ignore[arg-type]
    mixes = [SeedMix([(4, 1 - step), (5, step)]) for step in (0, 0.5, 1)]
    way = model.sample(3, seeds=mixes, **label).array  # type: ignore[arg-type]
    assert np.array_equal(way[[0, 2]], ends)
    again = model.sample(1, seeds=[SeedMix([(5, 0.5), (4, 0.5)])], **label).array  # type: ignore[arg-type]
    assert np.abs(again[0].astype(int) - way[1]).max() <= 1, "the order of the seeds does not matter"


@pytest.mark.parametrize("parts", [[], [(1, 0.0)], [(1, -1.0), (2, 1.0)], [(1, float("inf"))]])
def test_impossible_mixes_are_refused(parts: list[tuple[int, float]]) -> None:
    with pytest.raises(ConfigError, match="share"):
        SeedMix(parts)
