"""Moving averages: their profile, what is averaged, and how long they are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from danqing.families.base import Batch, FamilyConfig, Learner, Losses, Phase
from danqing.training.ema import EMA, LONGEST, SHORTEST, HalfLife, PowerFunction, exponent


class Counted(nn.Module):
    """A weight, a running statistic and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.register_buffer("statistic", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


class Half(Learner):
    """Trains one of its two children."""

    config: FamilyConfig

    def __init__(self) -> None:
        super().__init__()
        self.net, self.frozen = Counted(), Counted()

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("net", ("net",)),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        raise NotImplementedError


def move(learner: Learner, value: float) -> None:
    for tensor in learner.state_dict().values():
        tensor.fill_(value)


@pytest.mark.parametrize("length", [SHORTEST, 0.02, 0.05, 0.1, 0.25, LONGEST])
def test_the_profile_of_an_average_has_its_length_as_standard_deviation(length: float) -> None:
    t = (np.arange(1_000_000) + 0.5) / 1_000_000
    profile = t ** exponent(length)
    profile /= profile.sum()
    deviation = math.sqrt(profile @ t**2 - (profile @ t) ** 2)
    assert deviation == pytest.approx(length, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.floats(-3, 3)), min_size=1, max_size=12))
def test_each_weight_counts_by_the_integral_of_the_profile_over_its_step(
    steps: list[tuple[int, float]],
) -> None:
    learner = Half()
    move(learner, 100.0)  # the random start, which counts for nothing
    ema, seen, ends = EMA(learner, PowerFunction(0.1)), 0, [0]
    for step_images, value in steps:
        seen += step_images
        ends.append(seen)
        move(learner, value)
        ema.update(seen, step_images)
    shares = np.diff((np.array(ends) / seen) ** (exponent(0.1) + 1))
    wanted = float(shares @ np.array([value for _, value in steps]))
    average = ema.learner.state_dict()
    assert float(average["net.weight"]) == pytest.approx(wanted, abs=1e-9)
    assert float(average["net.statistic"]) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("decay", [HalfLife(10_000), PowerFunction(0.1)])
def test_what_no_phase_trains_is_copied(decay: HalfLife | PowerFunction) -> None:
    learner = Half()
    ema = EMA(learner, decay)
    ema.update(64, 64)
    move(learner, 3.0)
    ema.update(128, 64)
    average = ema.learner.state_dict()
    assert 0 < float(average["net.weight"]) < 3
    assert ema.averaged().keys() == {"net.weight", "net.statistic"}
    copied = ("net.count", "frozen.weight", "frozen.statistic", "frozen.count")
    assert [float(average[name]) for name in copied] == [3.0] * 4
