"""Following a flow back, where its path is known exactly: normal distributions."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.flow_inversion import END, ONE_WAY, check_sampler, inverted, usual_sampler
from danqing.samplers import SamplerName, Velocity, integrate, time_grid

TWO_WAYS = [name for name in get_args(SamplerName) if name not in ONE_WAY]


def of_normal(mean: float, deviation: float) -> Velocity:
    """The velocity of the flow to a normal distribution, in closed form."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        variance = t**2 * deviation**2 + (1 - t) ** 2
        image = mean + t * deviation**2 / variance * (x - t * mean)
        return (image - x) / (1 - t)

    return velocity


def scale(deviation: float, t: float) -> float:
    return float((t**2 * deviation**2 + (1 - t) ** 2) ** 0.5)


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = 0.3 + 0.5 * torch.randn((20, 6), generator=rng, dtype=torch.float64)
    return images, torch.randn((20, 6), generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("sampler", TWO_WAYS)
@pytest.mark.parametrize("end", [0.0, 0.4])
def test_the_way_back_is_exact(sampler: SamplerName, end: float, points: tuple[Tensor, Tensor]) -> None:
    images, noise = points
    found = inverted(sampler, of_normal(0.3, 0.5), images, noise, end=end, steps=400)
    start = END * images + (1 - END) * noise
    expected = end * 0.3 + (start - END * 0.3) / scale(0.5, END) * scale(0.5, end)
    assert (found - expected).abs().max() < (0.02 if sampler == "euler" else 2e-3)


def test_back_and_forth_under_another_distribution_keeps_quantiles(points: tuple[Tensor, Tensor]) -> None:
    images, noise = points
    latents = inverted("heun", of_normal(0.3, 0.5), images, noise, end=0.0, steps=200, shift=0.7)
    times = time_grid(200)
    same = integrate("heun", of_normal(0.3, 0.5), latents, times)
    start = END * images + (1 - END) * noise
    quantiles = (start - END * 0.3) / scale(0.5, END)
    torch.testing.assert_close(same, 0.3 + 0.5 * quantiles, atol=3e-3, rtol=0)
    other = integrate("heun", of_normal(-1.0, 0.2), latents, times)
    torch.testing.assert_close(other, -1.0 + 0.2 * quantiles, atol=3e-3, rtol=0)


def test_near_the_image_there_is_nothing_to_follow(points: tuple[Tensor, Tensor]) -> None:
    images, noise = points

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("no evaluation is needed")

    found = inverted("ab2", velocity, images, noise, end=0.98, steps=4)
    torch.testing.assert_close(found, 0.98 * images + 0.02 * noise)


def test_samplers_that_go_one_way_alone_are_rejected() -> None:
    for name in ONE_WAY:
        with pytest.raises(ConfigError, match="choose one of euler, heun, midpoint, ab2, adaptive"):
            check_sampler(name)  # type: ignore[arg-type]
        assert usual_sampler(name) == "ab2"  # type: ignore[arg-type]
    for name in TWO_WAYS:
        check_sampler(name)
        assert usual_sampler(name) == name
