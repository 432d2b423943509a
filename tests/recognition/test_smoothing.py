import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from danqing.errors import ConfigError
from danqing.recognition.smoothing import ABSTAINS, certify, lower_bound


@pytest.mark.parametrize(("count", "samples"), [(0, 10), (7, 10), (10, 10), (990, 1000), (520, 1000)])
def test_the_bound_is_that_of_clopper_and_pearson(count: int, samples: int) -> None:
    theirs = binomtest(count, samples, alternative="greater").proportion_ci(0.999, method="exact")
    assert lower_bound(count, samples, 0.001) == pytest.approx(theirs.low, abs=1e-9)


def test_the_radius_of_a_linear_classifier_is_below_its_distance_and_near_it() -> None:
    """The smoothed classifier of a hyperplane is the hyperplane: its true radius is the distance."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(12, generator=rng)
    weights /= weights.norm()
    images = torch.randn(20, 3, 2, 2, generator=rng) * 0.4

    def logits(x: Tensor) -> Tensor:
        side = x.flatten(1) @ weights
        return torch.stack([side, -side], 1)

    found = certify(logits, images, sigma=0.25, seeds=range(20), samples=4000)
    distances = (images.flatten(1) @ weights).double() / 2  # in shares of the range
    sure = found.labels != ABSTAINS
    assert 12 <= sure.sum() < 20
    assert torch.equal(found.labels[sure], (distances[sure] < 0).long())
    assert (found.radii <= distances.abs()).all()
    near = sure & (distances.abs() < 0.5)  # further away, 4,000 copies do not suffice
    assert near.sum() >= 8
    assert (found.radii[near] > distances.abs()[near] - 0.06).all()
    alone = certify(logits, images[3:4], sigma=0.25, seeds=[3], samples=4000)
    assert torch.equal(alone.radii[0], found.radii[3])


def test_noise_must_be_some() -> None:
    with pytest.raises(ConfigError, match="sigma must be above 0"):
        certify(lambda x: x.flatten(1), torch.zeros(1, 1, 1, 2), sigma=0, seeds=[0])
