"""Samplers: pure functions that follow a velocity field from noise to images.

Time t runs from 0 (noise) to 1 (image) on the linear path x_t = t·x + (1−t)·ε. The velocity v(x, t) is dx/dt
of the probability flow, and x + (1−t)·v is the predicted image.

No operation here mixes the images of a batch, and none rounds in a way that depends on the place in a batch:
arrays meet only in sums, products and quotients, which are exactly rounded. So an image depends on its own
noise alone, as long as `velocity` computes each image in the same way. The arrays are tensors of PyTorch or
arrays of NumPy (`arrays.py`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from danqing import dormand_prince
from danqing.arrays import Array, like, per_row
from danqing.errors import ConfigError

SamplerName = Literal["euler", "heun", "midpoint", "ab2", "dpm++", "stochastic", "consistency", "adaptive"]
WITHOUT_NOISE: Mapping[SamplerName, SamplerName] = {"stochastic": "heun", "consistency": "ab2"}
"""The samplers that add noise on the way, and those that evaluate the velocity as often and add none."""

Preview = Callable[[], Array]
OnStep = Callable[[int, int, Preview], None]

Velocity = Callable[[Array, Array], Array]
"""From x `[n, ...]` and one time for each image `[n]`, in the dtype of x, to dx/dt `[n, ...]`."""

Noise = Callable[[int], Array]
"""From the number of a step, from 0, to standard normal values of the shape of x; row i must follow from the
seed of image i alone.
"""

TOLERANCE = 1e-3
CHURN = 3.0
"""How much noise all steps of "stochastic" add together: S_churn of Karras et al. 2022, algorithm 2."""
MOST_CHURN = math.sqrt(2) - 1
LEAST_NOISE = 1e-3


def integrate(
    name: SamplerName,
    velocity: Velocity,
    x: Array,
    times: Sequence[float],
    *,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
    tolerance: float = TOLERANCE,
) -> Array:
    """Follow `velocity` from x at `times[0]` to `times[-1]`; return x there.

    x: `[n, ...]`, float32.
    times: of each step's start and end, as `time_grid` returns them. "adaptive" chooses its own steps between
        the first and the last time, and takes from the others its first step and its progress. "euler",
        "heun", "midpoint", "ab2" and "adaptive" also follow falling times, which must start below 1.
    noise: required for "stochastic" and "consistency", unused elsewhere.
    on_step: called after each step. Its preview is the predicted image of the latest evaluation, and x itself
        at the end; neither is bounded.
    tolerance: of "adaptive", absolute and relative: the estimated error of one step, as a root mean square
        over an image.
    Raises ModelError where "adaptive" cannot meet its tolerance.
    """
    problem = _Problem(velocity, x, times, noise, tolerance)
    steps = len(times) - 1
    for done, reached in SAMPLERS[name].run(problem):
        x = reached
        if on_step is not None:
            on_step(done, steps, _preview(x) if done == steps else _preview(*problem.latest))
    return x


def trajectory(name: SamplerName, velocity: Velocity, x: Array, times: Sequence[float]) -> Iterator[Array]:
    """Yield where `velocity` leads x, at each of `times` but the first.

    Arguments are those of `integrate`. "stochastic", "consistency" and "adaptive" have no such points.
    """
    for _, reached in SAMPLERS[name].run(_Problem(velocity, x, times, None, TOLERANCE)):
        yield reached


def time_grid(steps: int, shift: float = 1.0, *, start: float = 0.0) -> list[float]:
    """Return `steps` + 1 times from `start` to 1.

    They are uniform up to the shift.
    shift: t = u / (u + shift·(1−u)) for uniform u, which multiplies the ratio of noise to signal by the shift
        (Esser et al. 2024, equation 23, where time runs from image to noise). Above 1, more steps are spent
        on noisy images; 1 is uniform.
    start: in [0, 1), for images that are noised in part.
    """
    first = _noisier(start, 1 / shift)
    times = [_noisier(first + (1 - first) * step / steps, shift) for step in range(steps)]
    return [start, *times[1:], 1.0]


def evaluations(name: SamplerName, steps: int) -> int:
    """Return how often some steps to time 1 evaluate the velocity.

    Raises ConfigError for "adaptive".
    """
    sampler = _of_fixed_cost(name)
    return steps * sampler.evaluations_per_step + sampler.extra_evaluations


def steps_for(name: SamplerName, evaluations: int) -> int:
    """Return the most steps within some number of evaluations.

    It is at least 1. Raises ConfigError for "adaptive".
    """
    sampler = _of_fixed_cost(name)
    return max(1, (evaluations - sampler.extra_evaluations) // sampler.evaluations_per_step)


def predicted_image(x: Array, t: Array, velocity: Array) -> Array:
    """Return the image x + (1−t)·v that a velocity leads to.

    x, velocity: `[n, ...]`. t: `[n]`.
    """
    return x + per_row(1 - t, x) * velocity


def clipped(velocity: Velocity) -> Velocity:
    """Return the velocity that leads to the clamped predicted image.

    The image is clamped to [-1, 1].
    1−t is taken as at least LEAST_NOISE where the velocity divides by it.
    """

    def inside(x: Array, t: Array) -> Array:
        image = predicted_image(x, t, velocity(x, t)).clip(-1, 1)
        return (image - x) / per_row((1 - t).clip(LEAST_NOISE), x)

    return inside


def holding(velocity: Velocity, images: Array, noise: Array, mask: Array) -> Velocity:
    """Return a velocity that changes only pixels under the mask.

    The others end as those of `images`.
    They move in a straight line from `noise`, where sampling starts, to their image, so that at time t the
    network sees them with as much noise as it expects.
    images, noise: `[n, c, h, w]`. mask: `[n, 1, h, w]`, 1 where pixels change.
    """

    def held(x: Array, t: Array) -> Array:
        import torch  # an exported model does not fill

        known = torch.lerp(noise, images, per_row(t, x))
        return torch.where(mask > 0, velocity(torch.where(mask > 0, x, known), t), images - noise)

    return held


@dataclass
class _Problem:
    """What a sampler is given. latest: x, the times and the velocity of the latest evaluation."""

    velocity: Velocity
    x: Array
    times: Sequence[float]
    noise: Noise | None
    tolerance: float
    latest: tuple[Array, Array, Array] = field(init=False)

    def at(self, x: Array, t: float | Sequence[float]) -> Array:
        """Evaluate the velocity at one time, or at one for each image."""
        times = [t] * len(x) if isinstance(t, float) else t
        moments = like(times, x)
        velocity = self.velocity(x, moments)
        self.latest = x, moments, velocity
        return velocity

    def steps(self) -> Iterator[tuple[int, float, float]]:
        """Yield each step's number, from 0, its start and its end."""
        for step, (t, s) in enumerate(pairwise(self.times)):
            yield step, float(t), float(s)


_Progress = Iterator[tuple[int, Array]]
"""Yields how many of the steps are done, and x by then."""


def _euler(problem: _Problem) -> _Progress:
    """Order 1. On the linear path it equals DDIM (Song et al. 2021, equation 12)."""
    x = problem.x
    for step, t, s in problem.steps():
        x = x + (s - t) * problem.at(x, t)
        yield step + 1, x


def _heun(problem: _Problem) -> _Progress:
    """Order 2: Heun's method (Karras et al. 2022, algorithm 1)."""
    x = problem.x
    for step, t, s in problem.steps():
        x = _heun_step(problem, x, t, s)
        yield step + 1, x


def _heun_step(problem: _Problem, x: Array, t: float, s: float) -> Array:
    """Take one step of Heun's method; the step to time 1 is Euler's.

    The velocity of a predicted image is (x̂ − x) / (1−t), which is 0/0 at time 1. One step of order 1 leaves
    the method at order 2.
    """
    first = problem.at(x, t)
    guess = x + (s - t) * first
    return guess if s >= 1 else x + (s - t) / 2 * (first + problem.at(guess, s))


def _midpoint(problem: _Problem) -> _Progress:
    """Order 2: the explicit midpoint method.

    The order is 3 for Gaussian data, where the deviation g of x_t is the root of a quadratic in t: its third
    derivative is then −3·g'·g"/g, and the terms in h³ cancel.
    """
    x = problem.x
    for step, t, s in problem.steps():
        half = x + (s - t) / 2 * problem.at(x, t)
        x = x + (s - t) * problem.at(half, (t + s) / 2)
        yield step + 1, x


def _adams_bashforth(problem: _Problem) -> _Progress:
    """Order 2: the method of Adams and Bashforth for steps of any length.

    The two latest velocities are extrapolated linearly (Hairer, Nørsett and Wanner, "Solving Ordinary
    Differential Equations I", section III.5). The first step is Heun's, and the second step reuses the
    velocity at the end of Heun's guess: its error of order 2 adds one of order 3 to x, once. So each step
    still costs one evaluation.
    """
    x, following = problem.x, None
    before, length = x, math.inf
    for step, t, s in problem.steps():
        velocity = problem.at(x, t) if following is None else following
        following, aim = None, velocity
        if step > 0:
            aim = velocity + (s - t) / (2 * length) * (velocity - before)
        elif s < 1:
            following = problem.at(x + (s - t) * velocity, s)
            aim = (velocity + following) / 2
        x = x + (s - t) * aim
        before, length = velocity, s - t
        yield step + 1, x


def _dpm_solver(problem: _Problem) -> _Progress:
    """Order 2: DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2) with α = t and σ = 1−t.

    The predicted image is extrapolated linearly in λ = log(t / (1−t)). The first step has no earlier
    prediction, and the last one, over which λ grows without end, returns the predicted image exactly.
    """
    x, before, length = problem.x, problem.x, math.inf
    for step, t, s in problem.steps():
        image = x + (1 - t) * problem.at(x, t)
        growth = _log_ratio(s) - _log_ratio(t)
        aim = image
        if step > 0 and s < 1:
            aim = image + growth / (2 * length) * (image - before)
        x = (1 - s) / (1 - t) * x + (s - t) / (1 - t) * aim
        before, length = image, growth
        yield step + 1, x


def _stochastic(problem: _Problem) -> _Progress:
    """Return to more noise before each step of Heun's (Karras et al. 2022, algorithm 2).

    The ratio of noise to signal is multiplied by 1 + γ with γ = min(CHURN / steps, √2 − 1). On the linear
    path that is a scaling and added noise, which also hold at time 0:
    x' = (x + (1−t)·√((1+γ)² − 1)·z) / (1 + γ·(1−t)) is at time t' = t / (1 + γ·(1−t)).
    """
    if problem.noise is None:
        raise ValueError("the stochastic sampler needs noise")
    x, churn = problem.x, min(CHURN / (len(problem.times) - 1), MOST_CHURN)
    for step, t, s in problem.steps():
        added = (1 - t) * math.sqrt((1 + churn) ** 2 - 1)
        x = (x + added * problem.noise(step)) / (1 + churn * (1 - t))
        x = _heun_step(problem, x, _noisier(t, 1 + churn), s)
        yield step + 1, x


def _consistency(problem: _Problem) -> _Progress:
    """Take the predicted image, and add fresh noise to it for the next step.

    For models that learned to jump to the image (Song et al. 2023, algorithm 1, where it is called multistep
    consistency sampling), and for filling. There, each step sees the known pixels again. The last
    step returns the predicted image exactly.
    """
    if problem.noise is None:
        raise ValueError("the consistency sampler needs noise")
    x = problem.x
    for step, t, s in problem.steps():
        x = s * (x + (1 - t) * problem.at(x, t))
        if s < 1:
            x = x + (1 - s) * problem.noise(step)
        yield step + 1, x


def _adaptive(problem: _Problem) -> _Progress:
    """Order 5, with a step size for each image."""
    return dormand_prince.follow(problem.at, problem.x, problem.times, problem.tolerance)


def _preview(x: Array, t: Array | None = None, velocity: Array | None = None) -> Preview:
    """Return what shows the image that a velocity leads to, or x itself."""
    return lambda: x if t is None or velocity is None else predicted_image(x, t, velocity)


def _log_ratio(t: float) -> float:
    """Return λ = log(t / (1−t)), half of the logarithm of the signal-to-noise ratio."""
    if t <= 0 or t >= 1:
        return math.copysign(math.inf, t - 0.5)
    return math.log(t / (1 - t))


def _noisier(t: float, factor: float) -> float:
    """Return the time at which the ratio of noise to signal is `factor` times as large as at `t`."""
    return t / (t + factor * (1 - t))


class Sampler(NamedTuple):
    """A sampler and its cost.

    "adaptive" has no fixed cost, which is 0 here.
    extra_evaluations: of all steps together, where the last one ends at time 1.
    """

    run: Callable[[_Problem], _Progress]
    evaluations_per_step: int
    extra_evaluations: int = 0


SAMPLERS: Mapping[SamplerName, Sampler] = {
    "euler": Sampler(_euler, 1),
    "heun": Sampler(_heun, 2, -1),
    "midpoint": Sampler(_midpoint, 2),
    "ab2": Sampler(_adams_bashforth, 1),
    "dpm++": Sampler(_dpm_solver, 1),
    "stochastic": Sampler(_stochastic, 2, -1),
    "consistency": Sampler(_consistency, 1),
    "adaptive": Sampler(_adaptive, 0),
}


def _of_fixed_cost(name: SamplerName) -> Sampler:
    sampler = SAMPLERS[name]
    if not sampler.evaluations_per_step:
        raise ConfigError(
            "The adaptive sampler decides by itself how many evaluations it needs: choose another sampler "
            "for a fixed number of them."
        )
    return sampler
