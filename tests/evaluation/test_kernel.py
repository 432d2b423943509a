"""The kernel distance is Gretton's unbiased estimator over all pairs, whatever the tiles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.kernel import kernel_distance
from danqing.randomness import generator


def gaussian(n: int, d: int, seed: int, spread: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed, "rows")) * spread + shift


def pair_by_pair(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    within = [kernel(x, x) for x in (a, b)]
    own = sum((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in within)
    return float(own - 2 * kernel(a, b).mean())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    d=st.integers(1, 20),
    block=st.integers(1, 50),
)
def test_every_pair_counts_once_whatever_the_tiles(seed: int, n: int, m: int, d: int, block: int) -> None:
    a, b = gaussian(n, d, seed, 1.0, 0.5), gaussian(m, d, seed + 1)
    expected = pair_by_pair(a, b)
    estimate = kernel_distance(a, b, block=block)
    assert estimate.value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    order = torch.randperm(n, generator=generator(seed, "order"))
    assert kernel_distance(a[order], b).value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert kernel_distance(b, a).value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_right_on_average_from_few_images() -> None:
    """In one dimension E (xy + 1)³ is a polynomial of the moments: of N(0, 1) and N(0.5, 1) exactly."""

    def expected_kernel(first: tuple[float, ...], second: tuple[float, ...]) -> float:
        return sum(c * x * y for c, x, y in zip((1, 3, 3, 1), first, second, strict=True))

    p, q = (1.0, 0.0, 1.0, 0.0), (1.0, 0.5, 1.25, 1.625)
    exact = expected_kernel(p, p) + expected_kernel(q, q) - 2 * expected_kernel(p, q)
    found = torch.tensor(
        [kernel_distance(gaussian(10, 1, t, 1.0, 0.5), gaussian(12, 1, t + 5000)).value for t in range(1500)]
    )
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 1500**0.5
    nothing = torch.tensor(
        [kernel_distance(gaussian(10, 2, t), gaussian(12, 2, t + 5000)).value for t in range(500)]
    )
    assert abs(float(nothing.mean())) < 4 * float(nothing.std()) / 500**0.5
    assert float(nothing.min()) < 0


def test_the_interval_covers_the_expectation() -> None:
    found = [kernel_distance(gaussian(150, 6, 2 * t, 1.2), gaussian(100, 6, 2 * t + 1)) for t in range(150)]
    values = torch.tensor([estimate.value for estimate in found])
    intervals = torch.tensor([estimate.interval() for estimate in found])
    hits = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
    assert 0.88 <= float(hits.double().mean()) <= 0.995


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 2 images"):
        kernel_distance(gaussian(1, 3, 0), gaussian(5, 3, 1))
    with pytest.raises(EvaluationError, match="dimensions"):
        kernel_distance(gaussian(5, 3, 0), gaussian(5, 4, 1))
