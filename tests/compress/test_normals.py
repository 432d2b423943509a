"""The generator in NumPy draws the numbers of PyTorch's generator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing import randomness
from danqing.compress.runtime import normals

SEEDS = st.integers(0, 2**63 - 1)


def pair(seed: int) -> tuple[normals.Generator, torch.Generator]:
    return normals.Generator(seed), torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_uniform_numbers_are_those_of_torch(seed: int, counts: list[int]) -> None:
    ours, theirs = pair(seed)
    for count in counts:
        assert np.array_equal(ours.uniform(count), torch.rand(count, generator=theirs).numpy())
        double = torch.rand(count, generator=theirs, dtype=torch.float64)
        assert np.array_equal(ours.uniform_double(count), double.numpy())


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_normal_numbers_are_those_of_torch_up_to_rounding(seed: int, counts: list[int]) -> None:
    ours, theirs = pair(seed)
    for count in counts:  # below and from 16 on, whole blocks or not, in any order
        expected = torch.randn(count, generator=theirs).numpy()
        np.testing.assert_allclose(ours.normal(count), expected, rtol=0, atol=3e-6)


def test_a_million_normal_numbers_are_those_of_torch() -> None:
    ours, theirs = pair(7)
    difference = ours.normal(1_000_003) - torch.randn(1_000_003, generator=theirs).numpy()
    assert np.abs(difference).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0, 100), min_size=1, max_size=9), st.integers(1, 40))
def test_indices_and_integers_are_those_of_torch(seed: int, weights: list[float], count: int) -> None:
    weights[0] += 1
    ours, theirs = pair(seed)
    expected = torch.multinomial(torch.tensor(weights).double(), count, replacement=True, generator=theirs)
    assert np.array_equal(ours.multinomial(torch.tensor(weights).double().numpy(), count), expected.numpy())
    bound = 3 + int(weights[0])
    assert np.array_equal(
        ours.integers(bound, count), torch.randint(bound, (count,), generator=theirs).numpy()
    )


@pytest.mark.parametrize("shape", [(3,), (16,), (4, 3, 3), (3, 8, 8)])
def test_noise_of_a_seed_is_that_of_a_model(shape: tuple[int, ...]) -> None:
    seeds = [0, 5, 2**40 + 1]
    expected = randomness.normal(seeds, shape)
    np.testing.assert_allclose(normals.normal(seeds, shape), expected.numpy(), rtol=0, atol=3e-6)
    drawn = randomness.uniform(seeds, shape, purpose="codes")
    assert np.array_equal(normals.uniform(seeds, shape, "codes"), drawn.numpy())
