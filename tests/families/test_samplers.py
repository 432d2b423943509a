"""Samplers: exact flow maps, orders of convergence, preserved marginals, and images that stay apart."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import ConfigError, ModelError
from danqing.randomness import normal
from danqing.samplers import (
    SAMPLERS,
    SamplerName,
    clipped,
    evaluations,
    integrate,
    predicted_image,
    steps_for,
    time_grid,
)

FIXED: list[SamplerName] = [name for name in SAMPLERS if name != "adaptive"]
DETERMINISTIC: list[SamplerName] = [name for name in FIXED if name not in ("stochastic", "consistency")]
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "ab2": 2, "dpm++": 2}
MEAN = 0.3
DEVIATIONS = torch.tensor([0.05, 0.3, 0.8, 1.5], dtype=torch.float64)


def deviation(t: float | Tensor) -> Tensor:
    """Of x_t = t·x + (1−t)·ε where x has DEVIATIONS."""
    return ((t * DEVIATIONS) ** 2 + (1 - t) ** 2) ** 0.5


def of_gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The velocity E[x − ε | x_t] of Gaussian data, `[n, 4]`."""
    t = t[:, None]
    return MEAN + (t * DEVIATIONS**2 - (1 - t)) / deviation(t) ** 2 * (x - t * MEAN)


def exact(x: Tensor, t: float, s: float) -> Tensor:
    """Where the flow of Gaussian data takes x from time t to time s."""
    return s * MEAN + deviation(s) / deviation(t) * (x - t * MEAN)


def start(n: int = 3) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def between(first: float, last: float, steps: int) -> list[float]:
    return [first + (last - first) * step / steps for step in range(steps + 1)]


def error(name: SamplerName, times: list[float], **options) -> float:
    found = integrate(name, of_gaussian, start(), times, **options)
    return float((found - exact(start(), times[0], times[-1])).abs().max())


def falling(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = −2t·x², whose solution is x(s) = 1 / (1/x(t) + s² − t²)."""
    return -2 * t[:, None] * x**2


def falling_error(name: SamplerName, steps: int) -> float:
    x, times = start().abs() + 0.5, between(0.2, 0.9, steps)
    if name == "adaptive":
        for pair in itertools.pairwise(times):  # one step each, whatever its error
            x = integrate(name, falling, x, pair, tolerance=1e6)
    else:
        x = integrate(name, falling, x, times)
    return float((x - 1 / (1 / (start().abs() + 0.5) + 0.9**2 - 0.2**2)).abs().max())


@pytest.mark.parametrize(("name", "order"), [*ORDERS.items(), ("adaptive", 5)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name: SamplerName, order: int) -> None:
    coarse, fine = (falling_error(name, steps if order < 5 else steps // 2) for steps in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.05 * order)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_order_holds_from_noise_to_the_image_of_gaussian_data(name: SamplerName) -> None:
    coarse, fine = (error(name, time_grid(steps, 0.8)) for steps in (128, 512))
    logarithm = 0.25 if name == "dpm++" else 0.0  # λ has no bounds, which costs a factor log(steps)
    special = 1.0 if name == "midpoint" else 0.0  # order 3 where the variance is a quadratic in t
    assert math.log2(coarse / fine) / 2 == pytest.approx(ORDERS[name] + special - logarithm, abs=0.1)


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "ab2", "adaptive"])
def test_falling_times_lead_back(name: SamplerName) -> None:
    assert error(name, between(0.9, 0.0, 100), tolerance=1e-5) < (0.1 if name == "euler" else 3e-3)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("last", [0.9, 1.0])
def test_the_adaptive_sampler_ends_within_a_few_tolerances(tolerance: float, last: float) -> None:
    found = integrate("adaptive", of_gaussian, start(16), between(0.0, last, 10), tolerance=tolerance)
    expected = exact(start(16), 0.0, last)
    scaled = (found - expected) / (1 + expected.abs())
    assert float(scaled.square().mean(1).sqrt().max()) < 8 * tolerance


def test_the_adaptive_sampler_says_when_it_cannot_go_on() -> None:
    with pytest.raises(ModelError, match="larger tolerance"):
        integrate("adaptive", lambda x, t: x * math.nan, start(), time_grid(4))


def test_the_stochastic_sampler_preserves_the_marginals() -> None:
    count, rng = 20_000, torch.Generator().manual_seed(2)

    def noise(step: int) -> Tensor:
        return torch.randn(count, 4, generator=rng, dtype=torch.float64)

    first = noise(-1)
    found = integrate("stochastic", of_gaussian, first, time_grid(60), noise=noise)
    sharp = DEVIATIONS > 0.1  # the smallest deviation is below what 60 steps resolve
    mean, spread = found.mean(0) - MEAN, found.std(0) / DEVIATIONS
    assert bool((mean.abs() < 4 * DEVIATIONS / count**0.5 + 1e-3).all())
    assert bool(((spread - 1).abs() < 4 / (2 * count) ** 0.5 + 5e-3)[sharp].all())
    kept = torch.corrcoef(torch.stack([first[:, 2], found[:, 2]]))[0, 1]
    assert kept < 0.5, "noise is replaced on the way"


def test_dpm_solver_equals_the_formulas_of_its_paper() -> None:
    times, x = time_grid(6), start()
    images: list[Tensor] = []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        moment = torch.full((len(x),), t, dtype=x.dtype)
        images.append(predicted_image(x, moment, of_gaussian(x, moment)))
        aim = images[-1]
        if 1 < i < 5:  # λ has no value at time 0 and 1
            length, before = log_ratio(s) - log_ratio(t), log_ratio(t) - log_ratio(times[i - 1])
            r = before / length
            aim = (1 + 1 / (2 * r)) * images[-1] - 1 / (2 * r) * images[-2]
        shrunk = math.exp(log_ratio(t) - log_ratio(s)) if t > 0 and s < 1 else 0.0
        x = (1 - s) / (1 - t) * x - s * (shrunk - 1) * aim
    found = integrate("dpm++", of_gaussian, start(), times)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


def log_ratio(t: float) -> float:
    return math.log(t / (1 - t))


def test_dpm_solver_ends_at_the_predicted_image_exactly() -> None:
    image = torch.tensor([[0.1, -1.0, 1.0, 1 / 3]])
    shown: list[Tensor] = []

    def towards(x: Tensor, t: Tensor) -> Tensor:
        velocity = (image - x) / (1 - t)[:, None]
        shown.append(predicted_image(x, t, velocity))
        return velocity

    found = integrate("dpm++", towards, start(1).float(), time_grid(5))
    assert torch.equal(found, shown[-1])


def untidy(seeds: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A velocity that is computed image by image, with a stiffness of its own for each."""
    weight = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1)) / 4

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        rows = []
        for image, moment, seed in zip(x, t, seeds, strict=True):
            pulled = torch.nn.functional.conv2d(image[None], weight, padding=1)
            rows.append(torch.tanh(pulled * (1 + seed) + moment)[0] - image)
        return torch.stack(rows)

    return velocity


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_depends_on_its_own_seed_alone_bit_for_bit(name: SamplerName, channels_last: bool) -> None:
    shape, seeds = (3, 7, 5), list(range(16))

    def sample(chosen: list[int]) -> Tensor:
        x = normal(chosen, shape)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        return integrate(
            name,
            clipped(untidy(chosen)),
            x,
            time_grid(6, 1.3),
            noise=lambda step: normal(chosen, shape, purpose=f"noise of step {step}"),
            tolerance=1e-4,
        )

    together = sample(seeds)
    for seed in (0, 5, 15):
        assert torch.equal(sample([seed])[0], together[seed])
    assert torch.equal(sample([3, 15, 0])[1], together[15])


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_evaluations_are_those_counted(name: SamplerName, steps: int) -> None:
    counted = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        counted.append(float(t[0]))
        assert float(t.max()) < 1, "the velocity has no value at time 1"
        return of_gaussian(x, t)

    integrate(name, velocity, start(), time_grid(steps), noise=lambda step: torch.zeros(3, 4))
    assert len(counted) == evaluations(name, steps)
    assert steps_for(name, len(counted)) == steps


@pytest.mark.parametrize("name", FIXED)
def test_steps_are_the_most_that_the_evaluations_allow(name: SamplerName) -> None:
    for budget in range(2, 60):
        steps = steps_for(name, budget)
        assert evaluations(name, steps) <= budget < evaluations(name, steps + 1)


def test_the_adaptive_sampler_has_no_fixed_cost() -> None:
    with pytest.raises(ConfigError, match="another sampler"):
        steps_for("adaptive", 24)


@given(st.integers(1, 50), st.floats(0.1, 10), st.floats(0, 0.9))
def test_a_time_grid_rises_from_its_start_to_one(steps: int, shift: float, begin: float) -> None:
    times = time_grid(steps, shift, start=begin)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (begin, 1)
    assert all(t < s for t, s in itertools.pairwise(times))


def test_a_shift_multiplies_the_ratio_of_noise_to_signal() -> None:
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]
    for plain, shifted in zip(time_grid(8)[1:-1], time_grid(8, 3.0)[1:-1], strict=True):
        assert (1 - shifted) / shifted == pytest.approx(3 * (1 - plain) / plain)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_clipping_keeps_images_in_range(name: SamplerName) -> None:
    def far(x: Tensor, t: Tensor) -> Tensor:
        return of_gaussian(x, t) + 3  # leads beyond 1

    found = integrate(name, clipped(far), start(), time_grid(8), noise=lambda step: start() / 9)
    assert float(found.abs().max()) < 1.01
    inside = torch.full((1, 4), 0.1, dtype=torch.float64)
    t = torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(clipped(of_gaussian)(inside, t), of_gaussian(inside, t))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_each_step_is_reported_and_the_last_preview_is_the_result(name: SamplerName) -> None:
    reports: list[tuple[int, int]] = []
    previews: list[Tensor] = []

    def on_step(done: int, steps: int, preview: Callable[[], Tensor]) -> None:
        reports.append((done, steps))
        previews.append(preview())

    def noise(step: int) -> Tensor:
        return start() / 9

    found = integrate(name, of_gaussian, start(), time_grid(5), noise=noise, on_step=on_step)
    assert reports == sorted(reports)
    assert reports[-1] == (5, 5)
    assert reports.count((5, 5)) == 1
    if name != "adaptive":
        assert reports == [(done, 5) for done in range(1, 6)]
    assert torch.equal(previews[-1], found)
    assert float((previews[-2] - previews[-1]).abs().max()) < 0.5, "a preview is a predicted image, not x"


def test_a_caller_stops_the_sampler_by_raising() -> None:
    counted = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        counted.append(t)
        return of_gaussian(x, t)

    def stop(done: int, steps: int, preview: Callable[[], Tensor]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        integrate("euler", velocity, start(), time_grid(9), on_step=stop)
    assert len(counted) == 1
